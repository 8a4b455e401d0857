// SPDX-License-Identifier: GPL-2.0-only
/*
 * AF_XDP without copies: a pair whose receive chains are the chunks of a pool,
 * and whose transmit ring takes descriptors from it as well.
 *
 * A chunk is a linear chain. Its receive header lies where XDP has its
 * headroom, so the frame is where the pool wants it, whatever the alignment.
 */
#include <linux/dma-mapping.h>
#include <net/xdp_sock_drv.h>

#include "zcnic_xdp.h"

/* The longest chain that a device takes */
#define ZCNIC_XSK_MAX_SIZE	SZ_64K
/* Descriptors that are taken from a socket at once */
#define ZCNIC_XSK_BATCH		64

/**
 * zcnic_xsk_mem() - describe a pool as receive memory
 * @pool: the pool
 * @mem: filled in, zeroed before
 */
void zcnic_xsk_mem(struct xsk_buff_pool *pool, struct zcnic_rx_mem *mem)
{
	u32 size = sizeof(struct zcnic_rx_header) +
		   xsk_pool_get_rx_frame_size(pool);

	mem->xsk = pool;
	mem->xdp = true;
	mem->header_size = min(size, ZCNIC_XSK_MAX_SIZE);
	mem->max_chains = 1;
	if (pool->umem->flags & XDP_UMEM_SG_FLAG)
		mem->max_chains = ZCNIC_XSK_MAX_SEGMENTS;
}

/**
 * zcnic_xsk_attach() - attach a queue to its pool
 * @rx: the queue, its xdp_rxq registered
 */
void zcnic_xsk_attach(struct zcnic_rx *rx)
{
	XSK_CHECK_PRIV_TYPE(struct zcnic_xdp_buff);
	/* this memory type allocates nothing, so it can't fail */
	xdp_rxq_info_reg_mem_model(&rx->xdp_rxq, MEM_TYPE_XSK_BUFF_POOL, NULL);
	xsk_pool_set_rxq_info(rx->mem.xsk, &rx->xdp_rxq);
}

/**
 * zcnic_xsk_frag_size() - size of a pool's buffers
 * @mem: the pool
 *
 * Return: bytes, for xdp_rxq_info.
 */
u32 zcnic_xsk_frag_size(const struct zcnic_rx_mem *mem)
{
	return xsk_pool_get_rx_frag_step(mem->xsk);
}

/**
 * zcnic_xsk_fill() - take a buffer from the pool
 * @rx: the queue
 * @slot: filled in
 *
 * Return: whether the pool had one.
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

/**
 * zcnic_xsk_dma() - address of a buffer
 * @slot: the buffer's
 *
 * Return: where the device writes the receive header.
 */
dma_addr_t zcnic_xsk_dma(const struct zcnic_rx_slot *slot)
{
	return xsk_buff_xdp_get_dma(slot->xsk) - sizeof(struct zcnic_rx_header);
}

/**
 * zcnic_xsk_filled() - set or clear the flag that has the user wake us
 * @rx: the queue
 * @short_of: the pool had too few buffers
 *
 * Return: whether the user looks at the flag. Otherwise the driver has to poll.
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

/**
 * zcnic_xsk_sync() - make a used buffer readable
 * @pair: the pair
 * @slot: the buffer's
 */
void zcnic_xsk_sync(struct zcnic_pair *pair, const struct zcnic_rx_slot *slot)
{
	dma_sync_single_for_cpu(pair->zn->dma_dev, zcnic_xsk_dma(slot),
				sizeof(struct zcnic_rx_header),
				DMA_BIDIRECTIONAL);
	xsk_buff_dma_sync_for_cpu(slot->xsk);
}

/*
 * As xsk_buff_add_frag(), but for the page: that function takes a pool's
 * address for one of the linear mapping. It is in vmalloc space, and kernels
 * that check such addresses panic.
 */
static void zcnic_xsk_add_fragment(struct xdp_buff *first,
				   struct xdp_buff *buff)
{
	u32 length = buff->data_end - buff->data;
	struct xdp_buff_xsk *chunk;
	netmem_ref netmem;

	netmem = page_to_netmem(vmalloc_to_page(buff->data));
	__xdp_buff_add_frag(first, netmem, offset_in_page(buff->data), length,
			    buff->frame_sz, false);
	chunk = container_of(buff, struct xdp_buff_xsk, xdp);
	list_add_tail(&chunk->list_node, &chunk->pool->xskb_list);
}

/**
 * zcnic_xsk_take() - add a chain's buffer to the partial frame
 * @rx: the queue
 * @slot: the chain's, empty afterwards
 * @length: bytes of the frame in it
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

/**
 * zcnic_xsk_put() - give an unused buffer back to its pool
 * @rx: the queue
 * @slot: the buffer's
 */
void zcnic_xsk_put(struct zcnic_rx *rx, struct zcnic_rx_slot *slot)
{
	xsk_buff_free(slot->xsk);
	slot->xsk = NULL;
	rx->xsk_buffers--;
}

/**
 * zcnic_xsk_free() - free a frame with all of its buffers
 * @buff: the first
 *
 * xdp_return_buff() would take its address for one of the linear mapping, too.
 */
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
 * zcnic_xsk_send() - send a batch of frames of the pool's sockets
 * @pair: the pair, in its NAPI
 *
 * Return: whether there may be more.
 */
bool zcnic_xsk_send(struct zcnic_pair *pair)
{
	struct xsk_buff_pool *pool = pair->rx.mem.xsk;
	u32 room, length, count = 0, first = 0, i;
	struct net_device *dev = pair->zn->dev;
	struct zcnic_tx *tx = &pair->tx;
	const struct xdp_desc *descs;
	struct netdev_queue *txq;

	if (!pool || !netif_carrier_ok(dev))
		return false;
	txq = netdev_get_tx_queue(dev, pair->index);
	__netif_tx_lock(txq, smp_processor_id());
	if (netif_tx_queue_stopped(txq))
		goto unlock;
	/* at worst each descriptor is a frame, which takes a header, too */
	room = zcnic_tx_room(tx) / 2;
	if (room < ZCNIC_XSK_MAX_SEGMENTS)
		goto unlock;
	count = xsk_tx_peek_release_desc_batch(pool,
					       min(room, ZCNIC_XSK_BATCH));
	descs = pool->tx_descs;
	for (i = 0; i < count; i++) {
		if (!xsk_is_eop_desc(&pool->tx_descs[i]))
			continue;
		length = i + 1 - first;
		if (unlikely(!zcnic_xsk_send_frame(pair, pool, &descs[first],
						   length)))
			xsk_tx_completed(pool, length);
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
