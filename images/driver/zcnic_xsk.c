// SPDX-License-Identifier: GPL-2.0-only
/*
 * AF_XDP without copies: a pair whose receive chains are the chunks of a pool, and whose transmit ring takes
 * descriptors from it as well.
 *
 * A chunk is a linear chain. Its receive header lies where XDP has its headroom, so the frame is where the
 * pool wants it, whatever the alignment.
 *
 * The memory is a user's, and goes when its socket does. That can't wait for a backend: if chains don't
 * come home by themselves, the device is reset.
 */
#include <linux/dma-mapping.h>
#include <net/xdp_sock_drv.h>

#include "zcnic.h"

/* No device takes longer chains. */
#define ZCNIC_XSK_MAX_SIZE	SZ_64K
/* Descriptors that are taken from a socket at once. */
#define ZCNIC_XSK_BATCH		64

/**
 * zcnic_xsk_mem() - the receive memory that a pool is
 * @pool: the pool
 * @mem: where to put it
 */
void zcnic_xsk_mem(struct xsk_buff_pool *pool, struct zcnic_rx_mem *mem)
{
	mem->xsk = pool;
	mem->xdp = true;
	mem->header_size = min(sizeof(struct zcnic_rx_header) +
				       xsk_pool_get_rx_frame_size(pool),
			       ZCNIC_XSK_MAX_SIZE);
	mem->max_chains = pool->umem->flags & XDP_UMEM_SG_FLAG ?
				  ZCNIC_XSK_MAX_SEGMENTS :
				  1;
}

/**
 * zcnic_xsk_attach() - let the pool's buffers be frames of a queue
 * @rx: the queue
 */
void zcnic_xsk_attach(struct zcnic_rx *rx)
{
	XSK_CHECK_PRIV_TYPE(struct zcnic_xdp_buff);
	/* nothing to allocate: it can't fail */
	xdp_rxq_info_reg_mem_model(&rx->xdp_rxq, MEM_TYPE_XSK_BUFF_POOL, NULL);
	xsk_pool_set_rxq_info(rx->mem.xsk, &rx->xdp_rxq);
}

u32 zcnic_xsk_frag_size(const struct zcnic_rx_mem *mem)
{
	return xsk_pool_get_rx_frag_step(mem->xsk);
}

/**
 * zcnic_xsk_fill() - take a buffer from the pool
 * @rx: the queue
 * @slot: for it
 *
 * Return: whether there was one.
 */
bool zcnic_xsk_fill(struct zcnic_rx *rx, struct zcnic_rx_slot *slot)
{
	slot->xsk = xsk_buff_alloc(rx->mem.xsk);
	if (!slot->xsk)
		return false;
	slot->header_va = slot->xsk->data - sizeof(struct zcnic_rx_header);
	slot->header_size = rx->mem.header_size;
	rx->xsk_buffers++;
	return true;
}

dma_addr_t zcnic_xsk_dma(const struct zcnic_rx_slot *slot)
{
	return xsk_buff_xdp_get_dma(slot->xsk) - sizeof(struct zcnic_rx_header);
}

/**
 * zcnic_xsk_filled() - say whether the user has to wake us when there are buffers again
 * @rx: the queue
 * @short_of: there were not enough
 *
 * Return: whether it will.
 */
bool zcnic_xsk_filled(struct zcnic_rx *rx, bool short_of)
{
	if (!xsk_uses_need_wakeup(rx->mem.xsk))
		return false;
	if (short_of)
		xsk_set_rx_need_wakeup(rx->mem.xsk);
	else
		xsk_clear_rx_need_wakeup(rx->mem.xsk);
	return true;
}

void zcnic_xsk_sync(struct zcnic_pair *pair, const struct zcnic_rx_slot *slot)
{
	dma_sync_single_for_cpu(pair->zn->dma_dev, zcnic_xsk_dma(slot),
				sizeof(struct zcnic_rx_header),
				DMA_BIDIRECTIONAL);
	xsk_buff_dma_sync_for_cpu(slot->xsk);
}

/*
 * As xsk_buff_add_frag(), but for the page: that one takes a pool's addresses for such of the linear mapping,
 * which they aren't and which kernels that check it die of.
 */
static void zcnic_xsk_add_fragment(struct xdp_buff *head, struct xdp_buff *buff)
{
	struct xdp_buff_xsk *chunk =
		container_of(buff, struct xdp_buff_xsk, xdp);
	netmem_ref netmem = page_to_netmem(vmalloc_to_page(buff->data));

	__xdp_buff_add_frag(head, netmem, offset_in_page(buff->data),
			    buff->data_end - buff->data, buff->frame_sz, false);
	list_add_tail(&chunk->list_node, &chunk->pool->xskb_list);
}

/**
 * zcnic_xsk_take() - make a chain's bytes a part of the frame
 * @rx: the queue
 * @slot: the chain, which loses its buffer
 * @length: bytes
 */
void zcnic_xsk_take(struct zcnic_rx *rx, struct zcnic_rx_slot *slot, u32 length)
{
	struct xdp_buff *buff = slot->xsk;

	xsk_buff_set_size(buff, length);
	slot->xsk = NULL;
	rx->xsk_buffers--;
	if (!rx->partial)
		rx->buff = buff;
	else
		zcnic_xsk_add_fragment(rx->buff, buff);
}

void zcnic_xsk_put(struct zcnic_rx *rx, struct zcnic_rx_slot *slot)
{
	xsk_buff_free(slot->xsk);
	slot->xsk = NULL;
	rx->xsk_buffers--;
}

/* A whole frame; xdp_return_buff() takes its address for one of the linear mapping, too. */
void zcnic_xsk_free(struct xdp_buff *buff)
{
	xsk_buff_free(buff);
}

/* Put one frame, of @count descriptors, into the ring. */
static bool zcnic_xsk_send_frame(struct zcnic_pair *pair,
				 struct xsk_buff_pool *pool,
				 const struct xdp_desc *descs, u32 count)
{
	struct scatterlist sg[ZCNIC_XSK_MAX_SEGMENTS + 1];
	u32 i, bytes = 0;

	sg_init_table(sg, count + 1);
	for (i = 0; i < count; i++) {
		dma_addr_t dma = xsk_buff_raw_get_dma(pool, descs[i].addr);

		xsk_buff_raw_dma_sync_for_device(pool, dma, descs[i].len);
		sg_dma_address(&sg[i + 1]) = dma;
		sg_dma_len(&sg[i + 1]) = descs[i].len;
		bytes += descs[i].len;
	}
	return zcnic_tx_xsk(pair, sg, count, bytes);
}

/**
 * zcnic_xsk_send() - send what the pool's sockets have
 * @pair: the pair, in its NAPI
 *
 * Return: whether there may be more.
 */
bool zcnic_xsk_send(struct zcnic_pair *pair)
{
	struct netdev_queue *txq =
		netdev_get_tx_queue(pair->zn->dev, pair->index);
	struct xsk_buff_pool *pool = pair->rx.mem.xsk;
	struct zcnic_tx *tx = &pair->tx;
	u32 room, count = 0, first, i;

	if (!pool || !netif_carrier_ok(pair->zn->dev))
		return false;
	__netif_tx_lock(txq, smp_processor_id());
	if (netif_tx_queue_stopped(txq))
		goto unlock;
	/* at worst, each descriptor is a frame, which takes a transmit header more */
	room = zcnic_tx_room(tx) / 2;
	if (room < ZCNIC_XSK_MAX_SEGMENTS)
		goto unlock;
	count = xsk_tx_peek_release_desc_batch(pool,
					       min(room, ZCNIC_XSK_BATCH));
	for (i = 0, first = 0; i < count; i++) {
		if (!xsk_is_eop_desc(&pool->tx_descs[i]))
			continue;
		if (unlikely(!zcnic_xsk_send_frame(
			    pair, pool, &pool->tx_descs[first], i + 1 - first)))
			xsk_tx_completed(pool, i + 1 - first);
		first = i + 1;
	}
	if (count)
		zcnic_tx_kick(tx);
unlock:
	__netif_tx_unlock(txq);
	return count == ZCNIC_XSK_BATCH;
}

int zcnic_xsk_wakeup(struct net_device *dev, u32 queue, u32 flags)
{
	struct zcnic *zn = netdev_priv(dev);
	struct zcnic_pair *pair;

	if (queue >= dev->real_num_rx_queues)
		return -EINVAL;
	pair = &zn->pairs[queue];
	if (!READ_ONCE(pair->open))
		return -ENETDOWN;
	if (!napi_if_scheduled_mark_missed(&pair->napi)) {
		local_bh_disable();
		napi_schedule(&pair->napi);
		local_bh_enable();
	}
	return 0;
}
