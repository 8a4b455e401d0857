// SPDX-License-Identifier: GPL-2.0-only
/*
 * AF_XDP without copies: a pair whose receive chains are the chunks of a pool,
 * and whose transmit ring takes descriptors from it as well.
 *
 * A chunk is a linear chain. Its receive header lies where XDP has its
 * headroom, so the frame is where the pool wants it, whatever the alignment.
 */
#include <linux/dma-mapping.h>
#include <linux/if_vlan.h>
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
 * zcnic_xsk_max_mtu() - the longest MTU whose frames fit a pool's buffers
 * @pool: the pool
 *
 * Return: bytes, by the rule that the core applies when a socket is bound.
 */
u32 zcnic_xsk_max_mtu(struct xsk_buff_pool *pool)
{
	u32 overhead = ETH_HLEN + 2 * VLAN_HLEN + ETH_FCS_LEN;
	u32 size = xsk_pool_get_rx_frame_size(pool);

	if (pool->umem->flags & XDP_UMEM_SG_FLAG)
		size *= ZCNIC_XSK_MAX_SEGMENTS;
	return size > overhead ? size - overhead : 0;
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
 *
 * An unaligned chunk may span two pages. The device sees them as one stretch,
 * but a fragment is read by the CPU, which an IOMMU may show something else.
 *
 * Return: whether the buffer can be a fragment.
 */
static bool zcnic_xsk_add_fragment(struct xdp_buff *first,
				   struct xdp_buff *buff)
{
	u32 length = buff->data_end - buff->data;
	struct xdp_buff_xsk *chunk;
	struct page *page, *end;

	page = vmalloc_to_page(buff->data);
	end = vmalloc_to_page(buff->data_end - 1);
	/* below or beyond the next page: the difference is large */
	if (unlikely(page_to_pfn(end) - page_to_pfn(page) > 1))
		return false;
	if (!__xdp_buff_add_frag(first, page_to_netmem(page),
				 offset_in_page(buff->data), length,
				 buff->frame_sz, false))
		return false;
	chunk = container_of(buff, struct xdp_buff_xsk, xdp);
	list_add_tail(&chunk->list_node, &chunk->pool->xskb_list);
	return true;
}

/**
 * zcnic_xsk_take() - add a chain's buffer to the partial frame
 * @rx: the queue
 * @slot: the chain's, empty on success
 * @length: bytes of the frame in it
 *
 * Return: whether it could be added; a frame's first one always can.
 */
bool zcnic_xsk_take(struct zcnic_rx *rx, struct zcnic_rx_slot *slot, u32 length)
{
	struct xdp_buff *buff = slot->xsk;

	xsk_buff_set_size(buff, length);
	if (!rx->partial)
		rx->buff = buff;
	else if (!zcnic_xsk_add_fragment(rx->buff, buff))
		return false;
	slot->xsk = NULL;
	rx->xsk_buffers--;
	return true;
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
	struct scatterlist sg[ZCNIC_XSK_MAX_SEGMENTS + 2];
	u32 i, bytes = 0;

	for (i = 0; i < count; i++)
		bytes += descs[i].len;
	sg_init_table(sg, count + 1 + !!zcnic_tx_padding(bytes));
	for (i = 0; i < count; i++) {
		dma_addr_t dma = xsk_buff_raw_get_dma(pool, descs[i].addr);

		xsk_buff_raw_dma_sync_for_device(pool, dma, descs[i].len);
		sg_dma_address(&sg[i + 1]) = dma;
		sg_dma_len(&sg[i + 1]) = descs[i].len;
	}
	return zcnic_tx_xsk(pair, sg, count, bytes);
}

/*
 * Sent frames run NAPI when they complete. Without any, the user has to wake
 * us: before the socket's ring is read, or a frame that comes at this moment
 * would wait for the next one.
 */
static void zcnic_xsk_want_wakeup(struct xsk_buff_pool *pool,
				  const struct zcnic_tx *tx)
{
	if (!xsk_uses_need_wakeup(pool))
		return;
	if (tx->used)
		xsk_clear_tx_need_wakeup(pool);
	else
		xsk_set_tx_need_wakeup(pool);
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
	zcnic_xsk_want_wakeup(pool, tx);
	if (netif_tx_queue_stopped(txq))
		goto unlock;
	/* at worst each descriptor is a frame, with a header and padding */
	room = zcnic_tx_room(tx) / 3;
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
	zcnic_xsk_want_wakeup(pool, tx);
unlock:
	__netif_tx_unlock(txq);
	return count == ZCNIC_XSK_BATCH;
}

/**
 * zcnic_xsk_resume() - send what sockets queued while nothing could be sent
 * @zn: the device, its link up and its queues awake; the caller holds the
 *	instance lock
 *
 * The stack's qdiscs are run by waking a queue, and nothing else runs NAPI: the
 * frames in the rings were completed before.
 */
void zcnic_xsk_resume(struct zcnic *zn)
{
	u16 i;

	for (i = 0; i < zn->pair_count; i++) {
		struct zcnic_pair *pair = &zn->pairs[i];

		if (!pair->napi_on || !pair->rx.mem.xsk)
			continue;
		local_bh_disable();
		napi_schedule(&pair->napi);
		local_bh_enable();
	}
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
