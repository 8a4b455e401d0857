// SPDX-License-Identifier: GPL-2.0-only
/* The memory of receive queues: page pools, or an AF_XDP pool. */
#include <net/page_pool/helpers.h>

#include "zcnic_xdp.h"

static struct page_pool *zcnic_pool_create(struct zcnic *zn, u16 queue,
					   u32 page_size, u32 pages,
					   unsigned int flags)
{
	struct page_pool_params params = {
		.flags = PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV | flags,
		.order = get_order(page_size),
		.pool_size = pages,
		.nid = dev_to_node(zn->dma_dev),
		.dev = zn->dma_dev,
		.netdev = zn->dev,
		.queue_idx = queue,
		/* XDP_TX sends from the buffer that was received into */
		.dma_dir = zn->xdp ? DMA_BIDIRECTIONAL : DMA_FROM_DEVICE,
		.max_len = page_size,
	};

	return page_pool_create(&params);
}

static void zcnic_rx_mem_sizes(const struct zcnic *zn, bool split,
			       u32 hds_thresh, struct zcnic_rx_mem *mem)
{
	u32 headroom = zn->xdp ? ZCNIC_XDP_HEADROOM : 0;
	u32 chains = min_t(u32, mem->max_chains, zn->max_chains);
	u32 size;

	if (split) {
		size = DIV_ROUND_UP(zn->max_frame, max(chains, 1U));
		size = max3(size, hds_thresh, ZCNIC_MIN_HEADER_ROOM);
		size = ALIGN(size + sizeof(struct zcnic_rx_header), 64);
		mem->header_size = min(size, zn->max_header_size);
		mem->header_truesize = mem->header_size;
		mem->hds_thresh = hds_thresh;
		/* the stack gets a copy, an XDP program the fragment itself */
		size = SKB_HEAD_ALIGN(headroom + mem->header_size);
		if (zn->xdp)
			mem->header_truesize = size;
		return;
	}
	mem->header_truesize = ZCNIC_LINEAR_TRUESIZE;
	if (zn->gro)
		mem->header_truesize = ZCNIC_LINEAR_GRO_TRUESIZE;
	if (zn->xdp)
		mem->header_truesize = ZCNIC_LINEAR_XDP_TRUESIZE;
	mem->header_size = ZCNIC_LINEAR_SIZE(mem->header_truesize - headroom);
}

static int zcnic_rx_header_pool(struct zcnic_pair *pair, u32 pending,
				struct zcnic_rx_mem *mem)
{
	u32 bytes = pending * mem->header_truesize;
	struct page_pool *pool;
	int err;

	/* headers must be readable: never a memory provider's pool */
	pool = zcnic_pool_create(pair->zn, pair->index, PAGE_SIZE,
				 DIV_ROUND_UP(bytes, PAGE_SIZE), 0);
	if (IS_ERR(pool))
		return PTR_ERR(pool);
	mem->header_pool = pool;
	if (!pair->zn->xdp)
		return 0;
	err = xdp_reg_page_pool(pool);
	if (err)
		return err;
	mem->headroom = ZCNIC_XDP_HEADROOM;
	mem->xdp = true;
	return 0;
}

/**
 * zcnic_rx_mem_alloc() - create the memory of a receive queue
 * @pair: the queue's
 * @pending: chains that it will post at most
 * @page_size: bytes of a payload page, a power of two
 * @split: chains are split
 * @hds_thresh: frames of up to this many bytes stay in the header fragment
 * @mem: filled in
 *
 * Touches neither device nor queue.
 *
 * Return: 0 or a negative errno.
 */
int zcnic_rx_mem_alloc(struct zcnic_pair *pair, u32 pending, u32 page_size,
		       bool split, u32 hds_thresh, struct zcnic_rx_mem *mem)
{
	struct page_pool *pool;
	int err;

	memset(mem, 0, sizeof(*mem));
	if (pair->xsk) {
		zcnic_xsk_mem(pair->xsk, mem);
		return 0;
	}
	/* the linear part has the first chain's bytes, or its headers */
	mem->max_chains = MAX_SKB_FRAGS + !split;
	zcnic_rx_mem_sizes(pair->zn, split, hds_thresh, mem);
	if (split)
		mem->page_size = page_size;

	err = zcnic_rx_header_pool(pair, pending, mem);
	if (err)
		goto err_free;
	if (!split)
		return 0;

	pool = zcnic_pool_create(pair->zn, pair->index, page_size, pending,
				 PP_FLAG_ALLOW_UNREADABLE_NETMEM);
	if (IS_ERR(pool)) {
		err = PTR_ERR(pool);
		goto err_free;
	}
	mem->payload_pool = pool;
	return 0;

err_free:
	zcnic_rx_mem_free(mem);
	return err;
}

/**
 * zcnic_rx_mem_free() - free the memory of a receive queue
 * @mem: the memory, or zeroes; zeroed
 *
 * A page pool lives on until all of its pages have come back.
 */
void zcnic_rx_mem_free(struct zcnic_rx_mem *mem)
{
	if (mem->headroom)
		xdp_unreg_page_pool(mem->header_pool);
	page_pool_destroy(mem->header_pool);
	page_pool_destroy(mem->payload_pool);
	memset(mem, 0, sizeof(*mem));
}
