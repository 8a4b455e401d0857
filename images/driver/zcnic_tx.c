// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transmit: putting frames of the stack, of XDP and of AF_XDP into the ring.
 *
 * A chain is [transmit header][linear part][fragments]. The driver maps all of
 * it (premapped), so fragments may be memory that the CPU can't read. A frame
 * that wants a hardware time stamp has a device-writable descriptor behind it.
 * virtio has no premapped chains with both kinds of descriptors, so it maps
 * these, and their fragments must be ordinary memory.
 *
 * Ring, free slots and counters are under the transmit queue's lock, in
 * ndo_start_xmit as in NAPI.
 */
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/virtio.h>
#include <net/netdev_queues.h>
#include <net/page_pool/helpers.h>

#include "zcnic.h"

static void zcnic_tx_header_fill(struct zcnic_tx_header *header,
				 const struct sk_buff *skb, u32 header_length)
{
	const struct skb_shared_info *shinfo = skb_shinfo(skb);
	u16 start;

	memset(header, 0, sizeof(*header));
	if (skb->ip_summed == CHECKSUM_PARTIAL) {
		header->flags = cpu_to_le16(ZCNIC_TX_CSUM);
		start = skb_checksum_start_offset(skb);
		header->csum_start = cpu_to_le16(start);
		header->csum_offset = cpu_to_le16(skb->csum_offset);
	}
	if (!shinfo->gso_size)
		return;
	if (shinfo->gso_type & SKB_GSO_TCPV4)
		header->gso_type = ZCNIC_GSO_TCP4;
	else if (shinfo->gso_type & SKB_GSO_TCPV6)
		header->gso_type = ZCNIC_GSO_TCP6;
	else
		header->gso_type = ZCNIC_GSO_UDP;
	header->gso_size = cpu_to_le16(shinfo->gso_size);
	header->header_length = cpu_to_le16(header_length);
	header->l3_offset = cpu_to_le16(skb_network_offset(skb));
}

static u32 zcnic_gso_header_length(const struct sk_buff *skb)
{
	if (skb_shinfo(skb)->gso_type & SKB_GSO_UDP_L4)
		return skb_transport_offset(skb) + sizeof(struct udphdr);
	return skb_tcp_all_headers(skb);
}

/*
 * Map a frame, the linear part and @count fragments, into @sg behind the
 * transmit header.
 *
 * Return: descriptors, 0 on failure.
 */
static u16 zcnic_tx_map(struct zcnic *zn, struct zcnic_tx_slot *slot,
			void *data, u32 linear, const skb_frag_t *frags,
			u16 count, struct scatterlist *sg)
{
	dma_addr_t addr;
	u16 i;

	slot->mapped = 0;
	addr = dma_map_single(zn->dma_dev, data, linear, DMA_TO_DEVICE);
	if (dma_mapping_error(zn->dma_dev, addr))
		return 0;
	dma_unmap_addr_set(&slot->dma[0], addr, addr);
	dma_unmap_len_set(&slot->dma[0], len, linear);
	slot->mapped = 1;
	sg_dma_address(&sg[1]) = addr;
	sg_dma_len(&sg[1]) = linear;

	for (i = 0; i < count; i++) {
		const skb_frag_t *frag = &frags[i];
		u32 length = skb_frag_size(frag);

		addr = skb_frag_dma_map(zn->dma_dev, frag, 0, length,
					DMA_TO_DEVICE);
		if (dma_mapping_error(zn->dma_dev, addr)) {
			zcnic_tx_unmap(zn, slot);
			return 0;
		}
		netmem_dma_unmap_addr_set(skb_frag_netmem(frag),
					  &slot->dma[i + 1], addr, addr);
		dma_unmap_len_set(&slot->dma[i + 1], len, length);
		slot->mapped++;
		sg_dma_address(&sg[i + 2]) = addr;
		sg_dma_len(&sg[i + 2]) = length;
	}
	return count + 2;
}

/* zcnic_tx_map() for receive queues' memory, which their pools keep mapped */
static u16 zcnic_tx_map_pooled(struct zcnic *zn, struct zcnic_tx_slot *slot,
			       void *data, u32 linear, const skb_frag_t *frags,
			       u16 count, struct scatterlist *sg)
{
	dma_addr_t addr;
	u16 i;

	slot->mapped = 0;
	addr = page_pool_get_dma_addr(virt_to_page(data));
	sg_dma_address(&sg[1]) = addr + offset_in_page(data);
	sg_dma_len(&sg[1]) = linear;
	for (i = 0; i < count; i++) {
		const skb_frag_t *frag = &frags[i];

		addr = page_pool_get_dma_addr_netmem(skb_frag_netmem(frag));
		sg_dma_address(&sg[i + 2]) = addr + skb_frag_off(frag);
		sg_dma_len(&sg[i + 2]) = skb_frag_size(frag);
	}
	for (i = 1; i < count + 2; i++)
		dma_sync_single_for_device(zn->dma_dev, sg_dma_address(&sg[i]),
					   sg_dma_len(&sg[i]),
					   DMA_BIDIRECTIONAL);
	return count + 2;
}

static void zcnic_tx_count(struct zcnic_tx *tx, const struct sk_buff *skb,
			   u32 packets, u32 bytes)
{
	struct zcnic_tx_stats *stats = &tx->stats;

	u64_stats_update_begin(&stats->syncp);
	u64_stats_add(&stats->packets, packets);
	u64_stats_add(&stats->bytes, bytes);
	if (skb->ip_summed == CHECKSUM_PARTIAL)
		u64_stats_inc(&stats->needs_csum);
	else
		u64_stats_inc(&stats->csum_none);
	if (skb_is_gso(skb)) {
		u64_stats_inc(&stats->gso_packets);
		u64_stats_add(&stats->gso_bytes, skb->len);
		u64_stats_add(&stats->gso_wire_packets, packets);
		u64_stats_add(&stats->gso_wire_bytes, bytes);
	}
	u64_stats_update_end(&stats->syncp);
}

static void zcnic_tx_sg_header(struct zcnic_tx *tx,
			       const struct zcnic_tx_slot *slot,
			       struct scatterlist *sg)
{
	u32 index = slot - tx->slots;

	sg_dma_address(&sg[0]) = tx->headers_dma + index * sizeof(*tx->headers);
	sg_dma_len(&sg[0]) = sizeof(*tx->headers);
}

static void zcnic_tx_take(struct zcnic_tx *tx, struct zcnic_tx_slot *slot,
			  u16 descs)
{
	tx->free = slot->next;
	tx->used += descs;
	slot->sequence = tx->sequence++;
	slot->descs = descs;
}

/*
 * Put a mapped frame, whose slot is the first free one, into the ring. A
 * descriptor of zeroes pads it, for which @sg has an entry: the memory behind a
 * frame of XDP or AF_XDP is not the driver's.
 */
static int zcnic_tx_add(struct zcnic_pair *pair, struct zcnic_tx_slot *slot,
			struct scatterlist *sg, u16 descs, u32 padding)
{
	struct zcnic_tx *tx = &pair->tx;
	int err;

	if (unlikely(padding)) {
		sg_dma_address(&sg[descs]) = tx->padding_dma;
		sg_dma_len(&sg[descs]) = padding;
		descs++;
	}
	err = virtqueue_add_outbuf_premapped(tx->vq, sg, descs, slot,
					     GFP_ATOMIC);
	if (unlikely(err)) {
		zcnic_tx_unmap(pair->zn, slot);
		return err;
	}
	zcnic_tx_take(tx, slot, descs);
	return 0;
}

/* Whether a frame's socket gets a hardware time stamp */
static bool zcnic_tx_wants_hwtstamp(struct zcnic_pair *pair,
				    const struct sk_buff *skb)
{
	struct zcnic_tx_stats *stats = &pair->tx.stats;
	const struct zcnic *zn = pair->zn;

	if (likely(!(skb_shinfo(skb)->tx_flags & SKBTX_HW_TSTAMP)) ||
	    READ_ONCE(zn->tx_type) != HWTSTAMP_TX_ON ||
	    !(zn->features & BIT_ULL(ZCNIC_F_TIMESTAMP)))
		return false;
	if (skb_frags_readable(skb))
		return true;
	u64_stats_update_begin(&stats->syncp);
	u64_stats_inc(&stats->hwtstamps_failed);
	u64_stats_update_end(&stats->syncp);
	return false;
}

/* As zcnic_tx_map() and zcnic_tx_add(), with a descriptor for the time */
static int zcnic_tx_add_stamped(struct zcnic_tx *tx, struct zcnic_tx_slot *slot,
				struct sk_buff *skb, struct scatterlist *sg)
{
	struct zcnic_tx_stamp *stamp;
	struct scatterlist *sgs[2];
	struct scatterlist time;
	int count, err;

	stamp = kzalloc_obj(*stamp, GFP_ATOMIC);
	if (!stamp)
		return -ENOMEM;
	stamp->header = tx->headers[slot - tx->slots];
	stamp->header.flags |= cpu_to_le16(ZCNIC_TX_TIMESTAMP);
	sg_set_buf(&sg[0], &stamp->header, sizeof(stamp->header));
	sg_init_one(&time, &stamp->time, sizeof(stamp->time));
	sgs[0] = sg;
	sgs[1] = &time;
	count = skb_to_sgvec(skb, sg + 1, 0, skb->len);
	err = count;
	if (count >= 0)
		err = virtqueue_add_sgs(tx->vq, sgs, 1, 1, slot, GFP_ATOMIC);
	if (err) {
		kfree(stamp);
		return err;
	}
	slot->mapped = 0;
	slot->stamp = stamp;
	zcnic_tx_take(tx, slot, count + 2);
	return 0;
}

/* Stop the queue if it has no room for any frame. Return: whether it has. */
static bool zcnic_tx_maybe_stop(struct zcnic_pair *pair)
{
	struct zcnic_tx *tx = &pair->tx;

	if (likely(netif_subqueue_maybe_stop(pair->zn->dev, pair->index,
					     zcnic_tx_room(tx), ZCNIC_TX_DESCS,
					     zcnic_tx_wake_room(tx))))
		return true;
	u64_stats_update_begin(&tx->stats.syncp);
	u64_stats_inc(&tx->stats.stop);
	u64_stats_update_end(&tx->stats.syncp);
	return false;
}

/**
 * zcnic_tx_kick() - notify the device of new chains, unless it polls
 * @tx: the queue; the caller holds its lock
 */
void zcnic_tx_kick(struct zcnic_tx *tx)
{
	if (virtqueue_kick_prepare(tx->vq))
		virtqueue_notify(tx->vq);
}

/* Account for a frame of XDP or AF_XDP. */
static void zcnic_tx_added_frame(struct zcnic_pair *pair,
				 struct zcnic_tx_slot *slot, u32 bytes)
{
	struct zcnic_tx *tx = &pair->tx;

	slot->bytes = 0;
	WRITE_ONCE(tx->frames, tx->frames + 1);
	u64_stats_update_begin(&tx->stats.syncp);
	u64_stats_inc(&tx->stats.packets);
	u64_stats_add(&tx->stats.bytes, bytes);
	u64_stats_inc(&tx->stats.csum_none);
	u64_stats_update_end(&tx->stats.syncp);
	zcnic_tx_maybe_stop(pair);
}

/**
 * zcnic_tx_xdp() - put an XDP frame into the ring
 * @pair: the pair; the caller holds the transmit queue's lock
 * @frame: the frame
 * @pooled: it is in memory of receive queues, which is mapped
 *
 * Return: whether it is there; otherwise the caller keeps it.
 */
bool zcnic_tx_xdp(struct zcnic_pair *pair, struct xdp_frame *frame,
		  bool pooled)
{
	struct scatterlist sg[ZCNIC_TX_DESCS];
	struct zcnic_tx *tx = &pair->tx;
	const skb_frag_t *frags = NULL;
	struct skb_shared_info *shinfo;
	struct zcnic_tx_slot *slot;
	u32 bytes, padding;
	u16 count = 0, descs;

	if (unlikely(zcnic_tx_room(tx) < ZCNIC_TX_DESCS))
		return false;
	if (unlikely(xdp_frame_has_frags(frame))) {
		shinfo = xdp_get_shared_info_from_frame(frame);
		frags = shinfo->frags;
		count = shinfo->nr_frags;
	}
	slot = tx->free;
	bytes = xdp_get_frame_len(frame);
	padding = zcnic_tx_padding(bytes);
	memset(&tx->headers[slot - tx->slots], 0, sizeof(*tx->headers));
	sg_init_table(sg, count + 2 + !!padding);
	zcnic_tx_sg_header(tx, slot, sg);
	if (pooled)
		descs = zcnic_tx_map_pooled(pair->zn, slot, frame->data,
					    frame->len, frags, count, sg);
	else
		descs = zcnic_tx_map(pair->zn, slot, frame->data, frame->len,
				     frags, count, sg);
	if (unlikely(!descs || zcnic_tx_add(pair, slot, sg, descs, padding)))
		return false;
	slot->frame = frame;
	zcnic_tx_added_frame(pair, slot, bytes + padding);
	return true;
}

/**
 * zcnic_tx_xsk() - put a frame of the pair's AF_XDP pool into the ring
 * @pair: the pair, which has room for it; the caller holds the transmit
 *	queue's lock
 * @sg: the frame from entry 1 on, and an entry for zcnic_tx_padding()
 * @count: its entries, one per descriptor of the pool
 * @bytes: in all entries
 *
 * Return: whether it is there.
 */
bool zcnic_tx_xsk(struct zcnic_pair *pair, struct scatterlist *sg, u16 count,
		  u32 bytes)
{
	u32 padding = zcnic_tx_padding(bytes);
	struct zcnic_tx *tx = &pair->tx;
	struct zcnic_tx_slot *slot;

	slot = tx->free;
	if (unlikely(!slot))
		return false;
	memset(&tx->headers[slot - tx->slots], 0, sizeof(*tx->headers));
	zcnic_tx_sg_header(tx, slot, sg);
	slot->mapped = 0;
	if (unlikely(zcnic_tx_add(pair, slot, sg, count + 1, padding)))
		return false;
	slot->xsk_descs = count;
	tx->xsk_descs += count;
	zcnic_tx_added_frame(pair, slot, bytes + padding);
	return true;
}

netdev_tx_t zcnic_start_xmit(struct sk_buff *skb, struct net_device *dev)
{
	u32 packets = 1, bytes, header_length = 0, padding = 0;
	u16 descs, queue = skb_get_queue_mapping(skb);
	struct scatterlist sg[ZCNIC_TX_DESCS];
	struct zcnic *zn = netdev_priv(dev);
	struct skb_shared_info *shinfo;
	struct zcnic_tx_slot *slot;
	struct netdev_queue *txq;
	struct zcnic_pair *pair;
	struct zcnic_tx *tx;

	txq = netdev_get_tx_queue(dev, queue);
	pair = &zn->pairs[queue];
	tx = &pair->tx;
	if (unlikely(!zcnic_tx_maybe_stop(pair)))
		return NETDEV_TX_BUSY;
	/* the device makes segments, short ones as well */
	if (!skb_is_gso(skb)) {
		if (skb_frags_readable(skb) &&
		    unlikely(__skb_put_padto(skb, ETH_ZLEN, false)))
			goto drop;
		padding = zcnic_tx_padding(skb->len);
	}
	shinfo = skb_shinfo(skb);
	bytes = skb->len + padding;
	slot = tx->free;
	if (skb_is_gso(skb)) {
		header_length = zcnic_gso_header_length(skb);
		packets = DIV_ROUND_UP(skb->len - header_length,
				       shinfo->gso_size);
		bytes += (packets - 1) * header_length;
	}
	zcnic_tx_header_fill(&tx->headers[slot - tx->slots], skb,
			     header_length);

	sg_init_table(sg, shinfo->nr_frags + 2 + !!padding);
	if (zcnic_tx_wants_hwtstamp(pair, skb)) {
		shinfo->tx_flags |= SKBTX_IN_PROGRESS;
		skb_tx_timestamp(skb);
		if (zcnic_tx_add_stamped(tx, slot, skb, sg))
			goto drop;
	} else {
		zcnic_tx_sg_header(tx, slot, sg);
		descs = zcnic_tx_map(zn, slot, skb->data, skb_headlen(skb),
				     shinfo->frags, shinfo->nr_frags, sg);
		if (unlikely(!descs))
			goto drop;
		skb_tx_timestamp(skb);
		if (unlikely(zcnic_tx_add(pair, slot, sg, descs, padding)))
			goto drop;
	}
	slot->skb = skb;
	slot->bytes = bytes;
	zcnic_tx_count(tx, skb, packets, bytes);

	zcnic_tx_maybe_stop(pair);
	if (__netdev_tx_sent_queue(txq, bytes, netdev_xmit_more()))
		zcnic_tx_kick(tx);
	return NETDEV_TX_OK;

drop:
	u64_stats_update_begin(&tx->stats.syncp);
	u64_stats_inc(&tx->stats.dropped);
	u64_stats_update_end(&tx->stats.syncp);
	dev_kfree_skb_any(skb);
	/* frames that were added with xmit_more still wait for a kick */
	if (!netdev_xmit_more())
		zcnic_tx_kick(tx);
	return NETDEV_TX_OK;
}
