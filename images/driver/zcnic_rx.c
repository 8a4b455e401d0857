// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive: making frames of used chains.
 *
 * The receive header is in memory that the device may write at any time. The
 * driver copies each header once and validates the copy against the chain, the
 * partial frame and itself. An invalid header costs that frame and increments a
 * counter.
 */
#include <linux/if_vlan.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/virtio.h>
#include <net/flow_dissector.h>
#include <net/page_pool/helpers.h>

#include "zcnic_xdp.h"

#define ZCNIC_RX_FLAGS		(ZCNIC_RX_FIRST | ZCNIC_RX_LAST |	\
				 ZCNIC_RX_SPLIT | ZCNIC_RX_CSUM_GOOD |	\
				 ZCNIC_RX_CSUM_BAD | ZCNIC_RX_VLAN |	\
				 ZCNIC_RX_AGGREGATED |			\
				 ZCNIC_RX_TIMESTAMP |			\
				 ZCNIC_RX_FIXED_ID |			\
				 ZCNIC_RX_FIXED_ID_INNER)

/* Whether a header agrees with its chain, the partial frame and itself */
static bool zcnic_rx_header_valid(const struct zcnic_pair *pair,
				  const struct zcnic_rx_slot *slot,
				  const struct zcnic_rx_header *header,
				  u32 used_length)
{
	u32 payload_length = le32_to_cpu(header->payload_length);
	u32 header_length = le32_to_cpu(header->header_length);
	u32 frame_length = le32_to_cpu(header->frame_length);
	u16 flags = le16_to_cpu(header->flags);
	const struct zcnic_rx *rx = &pair->rx;
	u32 sum;

	if (flags & ~ZCNIC_RX_FLAGS ||
	    le16_to_cpu(header->queue) != pair->index)
		return false;
	if (flags & ZCNIC_RX_CSUM_GOOD && flags & ZCNIC_RX_CSUM_BAD)
		return false;
	/* XDP programs get wire frames */
	if (flags & ZCNIC_RX_AGGREGATED && rx->mem.xdp)
		return false;
	if (header_length > slot->header_size - sizeof(*header) ||
	    payload_length > (slot->payload ? slot->page_size : 0) ||
	    used_length != sizeof(*header) + header_length + payload_length)
		return false;
	sum = header_length + payload_length;

	if (flags & ZCNIC_RX_FIRST) {
		/* the stack wants an Ethernet header in the linear part */
		if (rx->partial || header->chain || header_length < ETH_HLEN ||
		    (payload_length && !(flags & ZCNIC_RX_SPLIT)))
			return false;
	} else {
		if (!rx->partial ||
		    le16_to_cpu(header->chain) != rx->next_chain ||
		    le32_to_cpu(header->frame_id) != rx->frame_id ||
		    frame_length != rx->frame_length ||
		    rx->next_chain >= rx->mem.max_chains || !sum ||
		    (header_length && payload_length))
			return false;
		sum += rx->received;
	}
	return flags & ZCNIC_RX_LAST ? sum == frame_length : sum < frame_length;
}

static struct sk_buff *zcnic_rx_build(struct zcnic_pair *pair,
				      struct zcnic_rx_slot *slot,
				      u32 header_length, u32 room)
{
	struct sk_buff *skb;

	if (!slot->payload) {
		skb = napi_build_skb(slot->header_va, slot->header_truesize);
		if (!skb)
			return NULL;
		skb_reserve(skb, sizeof(struct zcnic_rx_header));
		skb_put(skb, header_length);
		skb_mark_for_recycle(skb);
		if (unlikely(pair->rx.held))
			zcnic_hold(&pair->rx, slot->header);
		slot->header = 0;
	} else {
		/*
		 * Marked for recycling only with its first fragment: GRO does
		 * not merge the two kinds. It must not merge a frame that was
		 * not split with memory that the CPU can't read, because
		 * skb_gro_receive() gives the whole the first frame's
		 * readability.
		 */
		skb = napi_alloc_skb(&pair->napi, room);
		if (!skb)
			return NULL;
		skb_put_data(skb,
			     slot->header_va + sizeof(struct zcnic_rx_header),
			     header_length);
	}
	return skb;
}

/* Bytes of a frame's linear part: all of it, if it was not split */
static u32 zcnic_rx_linear_room(const struct zcnic_rx *rx,
				const struct zcnic_rx_header *header)
{
	u32 chains = rx->mem.max_chains * rx->mem.header_size;
	u32 frame_length = le32_to_cpu(header->frame_length);
	u32 header_length = le32_to_cpu(header->header_length);

	if (header->flags & cpu_to_le16(ZCNIC_RX_SPLIT))
		return header_length;
	return clamp(frame_length, header_length, max(header_length, chains));
}

/*
 * Begin a frame with the bytes of the first chain's descriptor 0.
 *
 * Return: whether there was memory for it.
 */
static bool zcnic_rx_begin(struct zcnic_pair *pair, struct zcnic_rx_slot *slot,
			   const struct zcnic_rx_header *header)
{
	u32 header_length = le32_to_cpu(header->header_length);
	struct zcnic_rx *rx = &pair->rx;

	if (rx->mem.xsk) {
		zcnic_xsk_take(rx, slot, header_length);
	} else if (rx->mem.xdp) {
		rx->buff = &rx->xdp.buff;
		xdp_init_buff(rx->buff, slot->header_truesize, &rx->xdp_rxq);
		xdp_prepare_buff(rx->buff, slot->header_va - rx->mem.headroom,
				 XDP_PACKET_HEADROOM, header_length, true);
		slot->header = 0;
	} else {
		rx->skb = zcnic_rx_build(pair, slot, header_length,
					 zcnic_rx_linear_room(rx, header));
		if (!rx->skb)
			return false;
	}
	rx->partial = true;
	rx->frame_id = le32_to_cpu(header->frame_id);
	rx->frame_length = le32_to_cpu(header->frame_length);
	rx->received = header_length;
	rx->next_chain = 0;
	return true;
}

static void zcnic_rx_add_fragment(struct zcnic_rx *rx, netmem_ref netmem,
				  u32 offset, u32 length, u32 truesize)
{
	if (rx->mem.xdp) {
		xdp_buff_add_frag(rx->buff, netmem, offset, length, truesize);
	} else {
		skb_add_rx_frag_netmem(rx->skb, skb_shinfo(rx->skb)->nr_frags,
				       netmem, offset, length, truesize);
		skb_mark_for_recycle(rx->skb);
		if (unlikely(rx->held))
			zcnic_hold(rx, netmem);
	}
	rx->received += length;
}

/* Return: whether the frame has the bytes now. */
static bool zcnic_rx_add_fragments(struct zcnic_rx *rx,
				   struct zcnic_rx_slot *slot,
				   u32 header_length, u32 payload_length)
{
	u32 offset;

	if (slot->xsk) {
		if (!zcnic_xsk_take(rx, slot, header_length))
			return false;
		rx->received += header_length;
		return true;
	}
	/* GRO must not merge a frame that was not split: zcnic_rx_build() */
	if (header_length && slot->payload && !rx->mem.xdp &&
	    header_length <= skb_tailroom(rx->skb)) {
		skb_put_data(rx->skb,
			     slot->header_va + sizeof(struct zcnic_rx_header),
			     header_length);
		rx->received += header_length;
	} else if (header_length) {
		offset = slot->header_offset + sizeof(struct zcnic_rx_header);
		zcnic_rx_add_fragment(rx, slot->header, offset, header_length,
				      slot->header_truesize);
		slot->header = 0;
	}
	if (payload_length) {
		page_pool_dma_sync_netmem_for_cpu(slot->payload_pool,
						  slot->payload, 0,
						  payload_length);
		zcnic_rx_add_fragment(rx, slot->payload, 0, payload_length,
				      slot->page_size);
		slot->payload = 0;
	}
	return true;
}

static void zcnic_rx_hash(struct sk_buff *skb,
			  const struct zcnic_rx_header *header)
{
	enum pkt_hash_types type;

	switch (header->hash_type) {
	case ZCNIC_HASH_TCP4:
	case ZCNIC_HASH_UDP4:
	case ZCNIC_HASH_TCP6:
	case ZCNIC_HASH_UDP6:
		type = PKT_HASH_TYPE_L4;
		break;
	case ZCNIC_HASH_IPV4:
	case ZCNIC_HASH_IPV6:
		type = PKT_HASH_TYPE_L3;
		break;
	default:
		return;
	}
	skb_set_hash(skb, le32_to_cpu(header->hash), type);
}

/* Hash, time stamp and stripped tag, as far as they were asked for */
static void zcnic_rx_metadata(const struct zcnic *zn, struct sk_buff *skb,
			      const struct zcnic_rx_header *header)
{
	if (zn->dev->features & NETIF_F_RXHASH)
		zcnic_rx_hash(skb, header);
	if (header->flags & cpu_to_le16(ZCNIC_RX_TIMESTAMP))
		skb_hwtstamps(skb)->hwtstamp =
			zcnic_time(header->timestamp_ns);
	if (header->flags & cpu_to_le16(ZCNIC_RX_VLAN))
		__vlan_hwaccel_put_tag(skb, htons(ETH_P_8021Q),
				       le16_to_cpu(header->vlan_tci));
}

/* Bytes that the device stripped from each wire frame */
static u32 zcnic_rx_stripped(u16 flags)
{
	return flags & ZCNIC_RX_VLAN ? VLAN_HLEN : 0;
}

/*
 * Whether the split point is behind the headers: the stack can't pull headers
 * from memory that it can't read.
 */
static bool zcnic_rx_headers_readable(const struct net_device *dev,
				      const struct sk_buff *skb)
{
	const struct ethhdr *eth = (const void *)skb->data;
	u32 length = skb_headlen(skb);
	struct flow_keys_basic keys;
	const struct tcphdr *tcp;
	u32 offset;

	if (!skb_flow_dissect_flow_keys_basic(dev_net(dev), NULL, &keys,
					      skb->data, eth->h_proto, ETH_HLEN,
					      length, 0))
		return false;
	offset = keys.control.thoff;
	switch (keys.basic.ip_proto) {
	case IPPROTO_TCP:
		tcp = (const void *)(skb->data + offset);
		if (offset + sizeof(*tcp) > length)
			return false;
		return offset + __tcp_hdrlen(tcp) <= length;
	case IPPROTO_UDP:
		return offset + sizeof(struct udphdr) <= length;
	default:
		return false;
	}
}

/* Count a frame of @count wire frames, which had @wire bytes together. */
static void zcnic_rx_account(struct zcnic_rx *rx, u16 flags, u32 count,
			     u32 wire, bool verified)
{
	struct zcnic_rx_stats *stats = &rx->stats;

	u64_stats_update_begin(&stats->syncp);
	u64_stats_add(&stats->packets, count);
	u64_stats_add(&stats->bytes, wire);
	if (count > 1) {
		u64_stats_inc(&stats->gro_packets);
		u64_stats_add(&stats->gro_bytes, rx->frame_length);
		u64_stats_add(&stats->gro_wire_packets, count);
		u64_stats_add(&stats->gro_wire_bytes, wire);
	}
	if (flags & ZCNIC_RX_SPLIT)
		u64_stats_add(&stats->split, count);
	if (flags & ZCNIC_RX_CSUM_BAD)
		u64_stats_inc(&stats->csum_bad);
	else if (verified)
		u64_stats_add(&stats->csum_unnecessary, count);
	else
		u64_stats_inc(&stats->csum_none);
	u64_stats_update_end(&stats->syncp);
}

/*
 * The device verified the checksum of the frame before a program could change
 * it, so the stack verifies it again.
 */
static void zcnic_rx_deliver_xdp(struct zcnic_pair *pair,
				 const struct zcnic_rx_header *header)
{
	u16 flags = le16_to_cpu(header->flags);
	struct zcnic_rx *rx = &pair->rx;
	struct sk_buff *skb;
	u32 wire;

	wire = rx->frame_length + zcnic_rx_stripped(flags);
	zcnic_rx_account(rx, flags, 1, wire, false);
	skb = zcnic_xdp_receive(pair, header);
	if (!skb)
		return;
	zcnic_rx_metadata(pair->zn, skb, header);
	napi_gro_receive(&pair->napi, skb);
}

static void zcnic_rx_discard(struct zcnic_rx *rx, struct sk_buff *skb,
			     u64_stats_t *reason)
{
	zcnic_rx_count(rx, reason);
	dev_kfree_skb_any(skb);
}

/* The first frame of a queue that only a memory provider could read */
static void zcnic_rx_warn_unreadable(struct zcnic_pair *pair,
				     const struct sk_buff *skb)
{
	bool split = zcnic_rx_headers_readable(pair->zn->dev, skb);

	if (pair->rx.unreadable_warned)
		return;
	pair->rx.unreadable_warned = true;
	netdev_warn(pair->zn->dev,
		    "queue %u: dropped a frame in memory that the CPU can't read: %s; q%u_rx_unreadable counts them\n",
		    pair->index,
		    split ? "the device found no valid checksum" :
			    "it was not split behind its headers",
		    pair->index);
}

static void zcnic_rx_deliver_skb(struct zcnic_pair *pair,
				 const struct zcnic_rx_header *header)
{
	struct net_device *dev = pair->zn->dev;
	u16 flags = le16_to_cpu(header->flags);
	struct zcnic_rx *rx = &pair->rx;
	u32 count = 1, headers = 0;
	bool readable, verified;
	struct sk_buff *skb;
	u32 wire;

	skb = rx->skb;
	if (flags & ZCNIC_RX_AGGREGATED) {
		if (!zcnic_gro_complete(skb, header, &headers)) {
			zcnic_rx_discard(rx, skb, &rx->stats.bad_header);
			return;
		}
		count = skb_shinfo(skb)->gso_segs;
	}
	readable = skb_frags_readable(skb);
	verified = flags & ZCNIC_RX_CSUM_GOOD &&
		   (dev->features & NETIF_F_RXCSUM || !readable);
	wire = skb->len + (count - 1) * headers +
	       count * zcnic_rx_stripped(flags);
	zcnic_rx_account(rx, flags, count, wire, verified);

	/* the stack would WARN if it had to sum up unreadable memory */
	if (!readable && !(flags & ZCNIC_RX_CSUM_GOOD &&
			   zcnic_rx_headers_readable(dev, skb))) {
		zcnic_rx_warn_unreadable(pair, skb);
		zcnic_rx_discard(rx, skb, &rx->stats.unreadable);
		return;
	}
	if (verified && count == 1)
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	zcnic_rx_metadata(pair->zn, skb, header);
	skb_record_rx_queue(skb, pair->index);
	skb->protocol = eth_type_trans(skb, dev);
	napi_gro_receive(&pair->napi, skb);
}

static void zcnic_rx_sync_header(struct zcnic_pair *pair,
				 const struct zcnic_rx_slot *slot,
				 u32 used_length)
{
	/* the queue's memory posted all used chains: NAPI owns the pools */
	if (slot->xsk)
		zcnic_xsk_sync(pair, slot);
	else
		page_pool_dma_sync_netmem_for_cpu(slot->header_pool,
						  slot->header,
						  slot->header_offset,
						  min(used_length,
						      slot->header_size));
}

/* Take one used chain. Return: whether a frame ended with it. */
static bool zcnic_rx_chain(struct zcnic_pair *pair, struct zcnic_rx_slot *slot,
			   u32 used_length)
{
	u32 header_length, payload_length;
	struct zcnic_rx *rx = &pair->rx;
	struct zcnic_rx_header header;
	u64_stats_t *reason;
	u16 flags;

	reason = &rx->stats.returned;
	if (!used_length)
		goto count;

	zcnic_rx_sync_header(pair, slot, used_length);
	memcpy(&header, slot->header_va, sizeof(header));
	flags = le16_to_cpu(header.flags);
	if (rx->skipping && !(flags & ZCNIC_RX_FIRST)) {
		zcnic_rx_release(rx, slot, true);
		return false;
	}
	rx->skipping = false;
	reason = &rx->stats.bad_header;
	if (!zcnic_rx_header_valid(pair, slot, &header, used_length))
		goto drop;

	header_length = le32_to_cpu(header.header_length);
	payload_length = le32_to_cpu(header.payload_length);
	reason = &rx->stats.dropped;
	if (!rx->partial) {
		if (!zcnic_rx_begin(pair, slot, &header))
			goto drop;
		header_length = 0;
	}
	if (!zcnic_rx_add_fragments(rx, slot, header_length, payload_length))
		goto drop;
	rx->next_chain++;
	zcnic_rx_release(rx, slot, true);
	if (!(flags & ZCNIC_RX_LAST))
		return false;
	rx->partial = false;
	if (rx->mem.xdp)
		zcnic_rx_deliver_xdp(pair, &header);
	else
		zcnic_rx_deliver_skb(pair, &header);
	return true;

drop:
	rx->skipping = true;
	zcnic_rx_drop_frame(rx);
count:
	zcnic_rx_count(rx, reason);
	zcnic_rx_release(rx, slot, true);
	return true;
}

/*
 * The device completes chains in the order in which they were posted. One out
 * of order comes from an invalid used element. The chain that it names may have
 * been posted since and still be the device's: it is quarantined until a device
 * reset, and the ring is not used until then.
 */
static void zcnic_rx_mark_broken(struct zcnic_rx *rx,
				 struct zcnic_rx_slot *slot)
{
	dev_err(&rx->vq->vdev->dev, "%s: completions out of order\n",
		rx->vq->name);
	zcnic_rx_count(rx, &rx->stats.misordered);
	slot->next = rx->quarantine;
	rx->quarantine = slot;
	__virtqueue_break(rx->vq);
}

/**
 * zcnic_rx_poll() - receive frames
 * @pair: the pair, in its NAPI
 * @budget: frames at most
 *
 * Return: frames received, invalid ones included.
 */
int zcnic_rx_poll(struct zcnic_pair *pair, int budget)
{
	struct zcnic_rx *rx = &pair->rx;
	struct zcnic_rx_slot *slot;
	unsigned int length;
	int frames = 0;

	if (!rx->started)
		return 0;
	while (frames < budget && (slot = virtqueue_get_buf(rx->vq, &length))) {
		rx->posted--;
		if (unlikely(slot->sequence != rx->due++)) {
			zcnic_rx_mark_broken(rx, slot);
			break;
		}
		frames += zcnic_rx_chain(pair, slot, length);
	}
	zcnic_xdp_flush(pair);
	return frames;
}
