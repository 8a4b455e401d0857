// SPDX-License-Identifier: GPL-2.0-only
/*
 * Native XDP. With a program, receive buffers have headroom and come from pools
 * that may be sent from. zcnic_rx.c makes an xdp_buff of a frame's chains
 * instead of an skb, and the program runs on it here.
 *
 * XDP_TX uses the pair's own transmit queue; ndo_xdp_xmit uses one by the
 * processor's number. Both hold the queue's lock, which they share with the
 * stack.
 */
#include <linux/bpf.h>
#include <linux/bpf_trace.h>
#include <linux/filter.h>

#include "zcnic_xdp.h"

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
	/* a tail may grow in the last buffer if all buffers are of one size */
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

/**
 * zcnic_xdp_detach() - undo zcnic_xdp_attach(), if it was called
 * @pair: the pair, its NAPI stopped
 */
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

/* Send a received frame, or free it. Return: whether it is sent. */
static bool zcnic_xdp_send(struct zcnic_pair *pair, struct xdp_buff *xdp)
{
	struct net_device *dev = pair->zn->dev;
	struct netdev_queue *txq;
	struct xdp_frame *frame;
	bool sent;

	/* for a buffer of an AF_XDP pool this makes a copy, of the first one */
	if (unlikely(pair->rx.mem.xsk && xdp_buff_has_frags(xdp)))
		frame = NULL;
	else
		frame = xdp_convert_buff_to_frame(xdp);
	if (unlikely(!frame)) {
		zcnic_xdp_free(&pair->rx, xdp);
		return false;
	}
	txq = netdev_get_tx_queue(dev, pair->index);
	__netif_tx_lock(txq, smp_processor_id());
	sent = zcnic_tx_xdp(pair, frame, !pair->rx.mem.xsk);
	__netif_tx_unlock(txq);
	if (unlikely(!sent))
		xdp_return_frame(frame);
	return sent;
}

/**
 * zcnic_xdp_receive() - run the program on a frame
 * @pair: the pair, in its NAPI, with a complete frame
 * @header: the frame's last receive header
 *
 * Return: the skb for the stack, or NULL.
 */
struct sk_buff *zcnic_xdp_receive(struct zcnic_pair *pair,
				  const struct zcnic_rx_header *header)
{
	struct bpf_prog *prog = READ_ONCE(pair->zn->xdp_prog);
	struct net_device *dev = pair->zn->dev;
	struct zcnic_rx *rx = &pair->rx;
	struct xdp_buff *xdp = rx->buff;
	u32 action = XDP_PASS;
	u64_stats_t *counter;
	struct sk_buff *skb;

	((struct zcnic_xdp_buff *)xdp)->header = header;
	if (likely(prog)) {
		/* the device doesn't know the MTU that keeps frames short */
		if (unlikely(xdp_buff_has_frags(xdp) &&
			     !prog->aux->xdp_has_frags))
			action = XDP_DROP;
		else
			action = bpf_prog_run_xdp(prog, xdp);
	}
	switch (action) {
	case XDP_PASS:
		if (rx->mem.xsk)
			skb = xdp_build_skb_from_zc(xdp);
		else
			skb = xdp_build_skb_from_buff(xdp);
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
 * zcnic_xdp_flush() - send the frames that the program sent or redirected
 * @pair: the pair, at the end of its poll
 */
void zcnic_xdp_flush(struct zcnic_pair *pair)
{
	struct net_device *dev = pair->zn->dev;
	struct netdev_queue *txq;

	if (pair->rx.xdp_redirected)
		xdp_do_flush();
	if (pair->rx.xdp_sent) {
		txq = netdev_get_tx_queue(dev, pair->index);
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
	unsigned int queue = smp_processor_id();
	struct zcnic *zn = netdev_priv(dev);
	struct netdev_queue *txq;
	struct zcnic_pair *pair;
	int sent = 0;

	if (unlikely(flags & ~XDP_XMIT_FLAGS_MASK))
		return -EINVAL;
	if (unlikely(!netif_carrier_ok(dev)))
		return -ENETDOWN;

	queue %= READ_ONCE(dev->real_num_tx_queues);
	txq = netdev_get_tx_queue(dev, queue);
	pair = &zn->pairs[queue];
	__netif_tx_lock(txq, smp_processor_id());
	/* a queue is stopped, or its pair closed, under this lock */
	if (likely(pair->open && !netif_tx_queue_stopped(txq)))
		while (sent < count && zcnic_tx_xdp(pair, frames[sent], false))
			sent++;
	if (flags & XDP_XMIT_FLUSH)
		zcnic_tx_kick(&pair->tx);
	__netif_tx_unlock(txq);
	return sent;
}

static const struct zcnic_rx_header *zcnic_xdp_header(const struct xdp_md *ctx)
{
	return ((const struct zcnic_xdp_buff *)ctx)->header;
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
	const struct zcnic_rx_header *header = zcnic_xdp_header(ctx);

	if (!header->hash_type || header->hash_type >= ARRAY_SIZE(types))
		return -ENODATA;
	*hash = le32_to_cpu(header->hash);
	*type = types[header->hash_type];
	return 0;
}

static int zcnic_xdp_rx_timestamp(const struct xdp_md *ctx, u64 *timestamp)
{
	const struct zcnic_rx_header *header = zcnic_xdp_header(ctx);

	if (!(header->flags & cpu_to_le16(ZCNIC_RX_TIMESTAMP)))
		return -ENODATA;
	*timestamp = ktime_to_ns(zcnic_time(header->timestamp_ns));
	return 0;
}

static int zcnic_xdp_rx_vlan_tag(const struct xdp_md *ctx, __be16 *protocol,
				 u16 *tag)
{
	const struct zcnic_rx_header *header = zcnic_xdp_header(ctx);

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
