// SPDX-License-Identifier: GPL-2.0-only
/*
 * The receive ring: posting buffers, and taking them back from a device that is
 * stopped or was reset. NAPI owns the ring; with NAPI stopped the holder of the
 * instance lock does.
 */
#include <linux/virtio.h>
#include <net/page_pool/helpers.h>

#include "zcnic_xdp.h"

/* Posted at once, so that not every frame reads the ring's flags */
#define ZCNIC_RX_FILL_BATCH	16

/**
 * zcnic_rx_slots_alloc() - allocate the slots of a receive ring
 * @pair: the pair
 *
 * Return: 0 or -ENOMEM.
 */
int zcnic_rx_slots_alloc(struct zcnic_pair *pair)
{
	struct zcnic_rx *rx = &pair->rx;
	u32 i;

	rx->slots = kvcalloc(pair->zn->rx_ring_size, sizeof(*rx->slots),
			     GFP_KERNEL);
	if (!rx->slots)
		return -ENOMEM;
	for (i = 0; i < pair->zn->rx_ring_size; i++) {
		rx->slots[i].next = rx->free;
		rx->free = &rx->slots[i];
	}
	return 0;
}

/**
 * zcnic_rx_slots_free() - free the slots, of which none is posted
 * @pair: the pair
 */
void zcnic_rx_slots_free(struct zcnic_pair *pair)
{
	kvfree(pair->rx.slots);
	pair->rx.slots = NULL;
	pair->rx.free = NULL;
}

/**
 * zcnic_rx_release() - free a slot and the buffers that are left in it
 * @rx: the queue
 * @slot: the slot, not posted
 * @napi: called by the pools' NAPI
 */
void zcnic_rx_release(struct zcnic_rx *rx, struct zcnic_rx_slot *slot,
		      bool napi)
{
	if (slot->header)
		page_pool_put_full_netmem(slot->header_pool, slot->header,
					  napi);
	if (slot->payload)
		page_pool_put_full_netmem(slot->payload_pool, slot->payload,
					  napi);
	if (slot->xsk)
		zcnic_xsk_put(rx, slot);
	slot->header = 0;
	slot->payload = 0;
	slot->next = rx->free;
	rx->free = slot;
}

static bool zcnic_rx_slot_fill(struct zcnic_rx *rx, struct zcnic_rx_slot *slot,
			       gfp_t gfp)
{
	const struct zcnic_rx_mem *mem = &rx->mem;

	if (mem->xsk)
		return zcnic_xsk_fill(rx, slot);
	slot->header = page_pool_alloc_frag_netmem(mem->header_pool,
						   &slot->header_offset,
						   mem->header_truesize, gfp);
	if (!slot->header)
		return false;
	slot->header_offset += mem->headroom;
	slot->header_va = netmem_address(slot->header) + slot->header_offset;
	slot->header_pool = mem->header_pool;
	slot->header_truesize = mem->header_truesize;
	slot->header_size = mem->header_size;
	slot->page_size = mem->page_size;
	if (!mem->payload_pool)
		return true;

	slot->payload_pool = mem->payload_pool;
	slot->payload = page_pool_alloc_netmems(mem->payload_pool, gfp);
	return slot->payload;
}

static int zcnic_rx_post(struct zcnic_rx *rx, struct zcnic_rx_slot *slot)
{
	u32 count = slot->payload ? 2 : 1;
	struct scatterlist sg[2];
	dma_addr_t dma;

	sg_init_table(sg, count);
	if (slot->xsk)
		dma = zcnic_xsk_dma(slot);
	else
		dma = page_pool_get_dma_addr_netmem(slot->header) +
		      slot->header_offset;
	sg_dma_address(&sg[0]) = dma;
	sg_dma_len(&sg[0]) = slot->header_size;
	if (slot->payload) {
		dma = page_pool_get_dma_addr_netmem(slot->payload);
		sg_dma_address(&sg[1]) = dma;
		sg_dma_len(&sg[1]) = slot->page_size;
	}
	return virtqueue_add_inbuf_premapped(rx->vq, sg, count, slot, NULL,
					     GFP_ATOMIC);
}

/* Post buffers up to the limit. Return: whether there was memory for them. */
static bool zcnic_rx_post_all(struct zcnic_rx *rx, gfp_t gfp)
{
	bool failed = false, added = false;
	struct zcnic_rx_slot *slot;

	while (rx->posted < rx->limit && rx->free) {
		slot = rx->free;
		rx->free = slot->next;
		if (!zcnic_rx_slot_fill(rx, slot, gfp)) {
			failed = true;
		} else if (!zcnic_rx_post(rx, slot)) {
			slot->sequence = rx->sequence++;
			rx->posted++;
			added = true;
			continue;
		}
		zcnic_rx_release(rx, slot, false);
		break;
	}
	if (added && virtqueue_kick_prepare(rx->vq))
		virtqueue_notify(rx->vq);
	return !failed;
}

/**
 * zcnic_rx_fill() - post buffers up to the ring's limit
 * @pair: the pair
 * @gfp: how to allocate
 *
 * Return: whether the ring is depleted: too little memory was available, and
 * the buffers that are posted may be too few for an interrupt ever to come.
 */
bool zcnic_rx_fill(struct zcnic_pair *pair, gfp_t gfp)
{
	struct zcnic_rx *rx = &pair->rx;
	bool failed = false;
	u32 batch;

	if (!rx->started)
		return false;
	/* set before the fill ring is read: later buffers then wake us */
	if (rx->mem.xsk && !rx->posted)
		zcnic_xsk_filled(rx, true);
	batch = min(rx->limit / 4, ZCNIC_RX_FILL_BATCH);
	if (rx->posted + batch <= rx->limit)
		failed = !zcnic_rx_post_all(rx, gfp);
	if (rx->mem.xsk)
		return !zcnic_xsk_filled(rx, failed) && failed;
	if (failed)
		zcnic_rx_count(rx, &rx->stats.alloc_fail);
	return failed && rx->posted < rx->limit / 2;
}

/**
 * zcnic_rx_drop_frame() - free the frame whose last chain has not been used
 * @rx: the queue, with the memory that the frame is in
 */
void zcnic_rx_drop_frame(struct zcnic_rx *rx)
{
	if (!rx->partial)
		return;
	rx->partial = false;
	if (!rx->mem.xdp)
		dev_kfree_skb_any(rx->skb);
	else if (rx->mem.xsk)
		zcnic_xsk_free(rx->buff);
	else
		xdp_return_frame(xdp_convert_buff_to_frame(rx->buff));
}

/**
 * zcnic_rx_drain() - take back returned chains and drop the frames in them
 * @pair: the pair, stopped in the device, its NAPI stopped
 */
void zcnic_rx_drain(struct zcnic_pair *pair)
{
	struct zcnic_rx *rx = &pair->rx;
	struct zcnic_rx_slot *slot;
	unsigned int length;
	u64 dropped = 0;

	while ((slot = virtqueue_get_buf(rx->vq, &length))) {
		rx->posted--;
		dropped += !!length;
		zcnic_rx_release(rx, slot, false);
	}
	/* a stopped queue returns chains in any order, all of them unused */
	rx->due = rx->sequence;
	zcnic_rx_drop_frame(rx);
	u64_stats_update_begin(&rx->stats.syncp);
	u64_stats_add(&rx->stats.dropped, dropped);
	u64_stats_update_end(&rx->stats.syncp);
}

/**
 * zcnic_rx_detach() - take back all buffers from a device that was reset
 * @pair: the pair, its NAPI stopped
 */
void zcnic_rx_detach(struct zcnic_pair *pair)
{
	struct zcnic_rx *rx = &pair->rx;
	struct zcnic_rx_slot *slot;

	while ((slot = virtqueue_detach_unused_buf(rx->vq))) {
		rx->posted--;
		zcnic_rx_release(rx, slot, false);
	}
	while ((slot = rx->quarantine)) {
		rx->quarantine = slot->next;
		zcnic_rx_release(rx, slot, false);
	}
	rx->due = rx->sequence;
	zcnic_rx_drop_frame(rx);
	rx->started = false;
}
