// SPDX-License-Identifier: GPL-2.0-only
/*
 * Native XDP. With a program, receive buffers have room in front of the frame and pools that may be sent
 * from; zcnic_rx.c makes an xdp_buff of a frame's chains instead of an skb, and here the program sees it.
 *
 * What a program sends takes the pair's own transmit queue, what others redirect here that of their
 * processor; both under the queue's lock, which they share with the stack.
 */
#include <linux/bpf.h>
#include <linux/bpf_trace.h>
#include <linux/filter.h>
#include <linux/if_vlan.h>

#include "zcnic.h"

/**
 * zcnic_xdp_attach() - prepare a receive queue for XDP
 * @pair: the pair, which has receive memory; its NAPI stopped
 */
void zcnic_xdp_attach(struct zcnic_pair *pair)
{
	struct zcnic_rx *rx = &pair->rx;

	u32 frag_size = 0;

	if (!rx->mem.xdp || xdp_rxq_info_is_reg(&rx->xdp_rxq))
		return;
	/* a tail can grow in the last buffer, if all are alike */
	if (rx->mem.xsk)
		frag_size = zcnic_xsk_frag_size(&rx->mem);
	else if (!rx->mem.payload_pool)
		frag_size = rx->mem.header_truesize;
	__xdp_rxq_info_reg(&rx->xdp_rxq, pair->zn->dev, pair->index,
			   pair->napi.napi_id, frag_size);
	if (rx->mem.xsk)
		zcnic_xsk_attach(rx);
	else
		xdp_rxq_info_attach_page_pool(&rx->xdp_rxq,
					      rx->mem.header_pool);
}

void zcnic_xdp_detach(struct zcnic_pair *pair)
{
	struct zcnic_rx *rx = &pair->rx;

	if (!xdp_rxq_info_is_reg(&rx->xdp_rxq))
		return;
	xdp_rxq_info_detach_mem_model(&rx->xdp_rxq);
	xdp_rxq_info_unreg(&rx->xdp_rxq);
}

static void zcnic_xdp_free(const struct zcnic_rx *rx, struct xdp_buff *xdp)
{
	if (rx->mem.xsk)
		zcnic_xsk_free(xdp);
	else
		xdp_return_buff(xdp);
}

/* Send what was received, or free it. Return: whether it is sent. */
static bool zcnic_xdp_send(struct zcnic_pair *pair, struct xdp_buff *xdp)
{
	struct netdev_queue *txq =
		netdev_get_tx_queue(pair->zn->dev, pair->index);
	/* of an AF_XDP pool's buffer, that is a copy */
	struct xdp_frame *frame = xdp_convert_buff_to_frame(xdp);
	bool sent;

	if (unlikely(!frame)) {
		zcnic_xdp_free(&pair->rx, xdp);
		return false;
	}
	__netif_tx_lock(txq, smp_processor_id());
	sent = zcnic_tx_xdp(pair, frame, !pair->rx.mem.xsk);
	__netif_tx_unlock(txq);
	if (unlikely(!sent))
		xdp_return_frame(frame);
	return sent;
}

/**
 * zcnic_xdp_receive() - show a frame to the program
 * @pair: the pair, in its NAPI
 * @header: what the device says of the frame, which is complete
 *
 * Return: what the stack gets, or NULL.
 */
struct sk_buff *zcnic_xdp_receive(struct zcnic_pair *pair,
				  const struct zcnic_rx_header *header)
{
	struct bpf_prog *prog = READ_ONCE(pair->zn->xdp_prog);
	struct net_device *dev = pair->zn->dev;
	struct zcnic_rx *rx = &pair->rx;
	struct xdp_buff *xdp = rx->buff;
	u64_stats_t *counter;
	u32 action = XDP_PASS;
	struct sk_buff *skb;

	((struct zcnic_xdp_buff *)xdp)->header = header;
	if (likely(prog)) {
		/* longer than the MTU allows, which the device doesn't know */
		if (unlikely(xdp_buff_has_frags(xdp) &&
			     !prog->aux->xdp_has_frags))
			action = XDP_DROP;
		else
			action = bpf_prog_run_xdp(prog, xdp);
	}
	switch (action) {
	case XDP_PASS:
		skb = rx->mem.xsk ? xdp_build_skb_from_zc(xdp) :
				    xdp_build_skb_from_buff(xdp);
		if (likely(skb))
			return skb;
		counter = &rx->stats.dropped;
		goto free;
	case XDP_TX:
		if (unlikely(!zcnic_xdp_send(pair, xdp))) {
			trace_xdp_exception(dev, prog, action);
			counter = &rx->stats.xdp_error;
			goto count;
		}
		rx->xdp_sent = true;
		counter = &rx->stats.xdp_tx;
		goto count;
	case XDP_REDIRECT:
		if (unlikely(xdp_do_redirect(dev, xdp, prog)))
			break;
		rx->xdp_redirected = true;
		counter = &rx->stats.xdp_redirect;
		goto count;
	case XDP_DROP:
		counter = &rx->stats.xdp_drop;
		goto free;
	case XDP_ABORTED:
		break;
	default:
		bpf_warn_invalid_xdp_action(dev, prog, action);
		break;
	}
	trace_xdp_exception(dev, prog, action);
	counter = &rx->stats.xdp_error;
free:
	zcnic_xdp_free(rx, xdp);
count:
	zcnic_rx_count(rx, counter);
	return NULL;
}

/**
 * zcnic_xdp_flush() - have what the program sent go
 * @pair: the pair, at the end of its poll
 */
void zcnic_xdp_flush(struct zcnic_pair *pair)
{
	struct netdev_queue *txq =
		netdev_get_tx_queue(pair->zn->dev, pair->index);

	if (pair->rx.xdp_redirected)
		xdp_do_flush();
	if (pair->rx.xdp_sent) {
		__netif_tx_lock(txq, smp_processor_id());
		zcnic_tx_kick(&pair->tx);
		__netif_tx_unlock(txq);
	}
	pair->rx.xdp_redirected = false;
	pair->rx.xdp_sent = false;
}

int zcnic_xdp_xmit(struct net_device *dev, int count, struct xdp_frame **frames,
		   u32 flags)
{
	struct zcnic *zn = netdev_priv(dev);
	u16 queue = smp_processor_id() % READ_ONCE(dev->real_num_tx_queues);
	struct netdev_queue *txq = netdev_get_tx_queue(dev, queue);
	struct zcnic_pair *pair = &zn->pairs[queue];
	int sent = 0;

	if (unlikely(flags & ~XDP_XMIT_FLAGS_MASK))
		return -EINVAL;
	if (unlikely(!netif_carrier_ok(dev)))
		return -ENETDOWN;

	__netif_tx_lock(txq, smp_processor_id());
	/* whoever takes the queue away stops it, or closes the pair, under its lock */
	if (likely(pair->open && !netif_tx_queue_stopped(txq)))
		while (sent < count && zcnic_tx_xdp(pair, frames[sent], false))
			sent++;
	if (flags & XDP_XMIT_FLUSH)
		zcnic_tx_kick(&pair->tx);
	__netif_tx_unlock(txq);
	return sent;
}

static int zcnic_xdp_rx_hash(const struct xdp_md *ctx, u32 *hash,
			     enum xdp_rss_hash_type *type)
{
	static const enum xdp_rss_hash_type types[] = {
		[ZCNIC_HASH_IPV4] = XDP_RSS_TYPE_L3_IPV4,
		[ZCNIC_HASH_TCP4] = XDP_RSS_TYPE_L4_IPV4_TCP,
		[ZCNIC_HASH_UDP4] = XDP_RSS_TYPE_L4_IPV4_UDP,
		[ZCNIC_HASH_IPV6] = XDP_RSS_TYPE_L3_IPV6,
		[ZCNIC_HASH_TCP6] = XDP_RSS_TYPE_L4_IPV6_TCP,
		[ZCNIC_HASH_UDP6] = XDP_RSS_TYPE_L4_IPV6_UDP,
	};
	const struct zcnic_rx_header *header =
		((const struct zcnic_xdp_buff *)ctx)->header;

	if (!header->hash_type || header->hash_type >= ARRAY_SIZE(types))
		return -ENODATA;
	*hash = le32_to_cpu(header->hash);
	*type = types[header->hash_type];
	return 0;
}

static int zcnic_xdp_rx_timestamp(const struct xdp_md *ctx, u64 *timestamp)
{
	const struct zcnic_rx_header *header =
		((const struct zcnic_xdp_buff *)ctx)->header;
	const struct zcnic *zn =
		netdev_priv(((const struct xdp_buff *)ctx)->rxq->dev);

	if (!(header->flags & cpu_to_le16(ZCNIC_RX_TIMESTAMP)))
		return -ENODATA;
	*timestamp = ktime_to_ns(zcnic_time(zn, header->timestamp_ns));
	return 0;
}

static int zcnic_xdp_rx_vlan_tag(const struct xdp_md *ctx, __be16 *protocol,
				 u16 *tag)
{
	const struct zcnic_rx_header *header =
		((const struct zcnic_xdp_buff *)ctx)->header;

	if (!(header->flags & cpu_to_le16(ZCNIC_RX_VLAN)))
		return -ENODATA;
	*protocol = htons(ETH_P_8021Q);
	*tag = le16_to_cpu(header->vlan_tci);
	return 0;
}

const struct xdp_metadata_ops zcnic_xdp_metadata_ops = {
	.xmo_rx_timestamp	= zcnic_xdp_rx_timestamp,
	.xmo_rx_hash		= zcnic_xdp_rx_hash,
	.xmo_rx_vlan_tag	= zcnic_xdp_rx_vlan_tag,
};
