// SPDX-License-Identifier: GPL-2.0-only
#include <linux/dma-mapping.h>
#include <linux/virtio.h>
#include <net/xdp_sock_drv.h>

#include "zcnic.h"

/* How long a frame may be on its way to the wire. */
#define ZCNIC_TX_TIMEOUT	(5 * HZ)

int zcnic_tx_slots_alloc(struct zcnic_pair *pair)
{
	struct zcnic *zn = pair->zn;
	struct zcnic_tx *tx = &pair->tx;
	u32 i;

	/* the shortest frame takes two descriptors: transmit header and linear part */
	tx->slot_count = zn->tx_ring_size / 2;
	tx->slots = kvcalloc(tx->slot_count, sizeof(*tx->slots), GFP_KERNEL);
	tx->headers = dma_alloc_coherent(zn->dma_dev,
					 tx->slot_count * sizeof(*tx->headers),
					 &tx->headers_dma, GFP_KERNEL);
	if (!tx->slots || !tx->headers)
		return -ENOMEM;
	for (i = 0; i < tx->slot_count; i++) {
		tx->slots[i].next = tx->free;
		tx->free = &tx->slots[i];
	}
	return 0;
}

void zcnic_tx_slots_free(struct zcnic_pair *pair)
{
	struct zcnic_tx *tx = &pair->tx;

	if (tx->headers)
		dma_free_coherent(pair->zn->dma_dev,
				  tx->slot_count * sizeof(*tx->headers),
				  tx->headers, tx->headers_dma);
	kvfree(tx->slots);
	tx->headers = NULL;
	tx->slots = NULL;
	tx->free = NULL;
}

void zcnic_tx_unmap(struct zcnic *zn, struct zcnic_tx_slot *slot)
{
	u16 i;

	if (slot->mapped)
		dma_unmap_single(zn->dma_dev,
				 dma_unmap_addr(&slot->dma[0], addr),
				 dma_unmap_len(&slot->dma[0], len),
				 DMA_TO_DEVICE);
	for (i = 1; i < slot->mapped; i++)
		netmem_dma_unmap_page_attrs(zn->dma_dev,
					    dma_unmap_addr(&slot->dma[i], addr),
					    dma_unmap_len(&slot->dma[i], len),
					    DMA_TO_DEVICE, 0);
	slot->mapped = 0;
}

static void zcnic_tx_slot_put(struct zcnic_tx *tx, struct zcnic_tx_slot *slot)
{
	slot->skb = NULL;
	slot->frame = NULL;
	slot->stamp = NULL;
	slot->xsk_descs = 0;
	slot->next = tx->free;
	tx->free = slot;
	tx->used -= slot->descs;
}

static void zcnic_tx_hwtstamp(const struct zcnic *zn,
			      struct zcnic_tx_slot *slot, u32 length)
{
	struct skb_shared_hwtstamps times = {};

	if (length < sizeof(slot->stamp->time))
		return;
	times.hwtstamp = zcnic_time(zn, slot->stamp->time.timestamp_ns);
	skb_tstamp_tx(slot->skb, &times);
}

static void zcnic_tx_release(struct zcnic_pair *pair,
			     struct zcnic_tx_slot *slot, int budget)
{
	zcnic_tx_unmap(pair->zn, slot);
	kfree(slot->stamp);
	if (slot->skb)
		napi_consume_skb(slot->skb, budget);
	else
		WRITE_ONCE(pair->tx.frames, pair->tx.frames - 1);
	if (slot->frame)
		xdp_return_frame(slot->frame);
	if (slot->xsk_descs) {
		pair->tx.xsk_descs -= slot->xsk_descs;
		if (pair->rx.mem.xsk)
			xsk_tx_completed(pair->rx.mem.xsk, slot->xsk_descs);
	}
	zcnic_tx_slot_put(&pair->tx, slot);
}

/* As zcnic_rx_mark_broken(): the frame may be one that the device has not sent yet. */
static void zcnic_tx_mark_broken(struct zcnic_tx *tx,
				 struct zcnic_tx_slot *slot)
{
	dev_err(&tx->vq->vdev->dev, "%s: completions out of order\n",
		tx->vq->name);
	u64_stats_update_begin(&tx->stats.syncp);
	u64_stats_inc(&tx->stats.misordered);
	u64_stats_update_end(&tx->stats.syncp);
	slot->next = tx->quarantine;
	tx->quarantine = slot;
	__virtqueue_break(tx->vq);
}

/**
 * zcnic_tx_clean() - free what the device has sent
 * @pair: the pair
 * @in_napi: called from the pair's NAPI, else from where NAPI is stopped
 *
 * Return: number of chains.
 */
unsigned int zcnic_tx_clean(struct zcnic_pair *pair, bool in_napi)
{
	struct netdev_queue *txq =
		netdev_get_tx_queue(pair->zn->dev, pair->index);
	unsigned int chains = 0, bytes = 0, length;
	struct zcnic_tx *tx = &pair->tx;
	struct zcnic_tx_slot *slot;

	__netif_tx_lock_bh(txq);
	while (chains < tx->slot_count &&
	       (slot = virtqueue_get_buf(tx->vq, &length))) {
		if (in_napi && unlikely(slot->sequence != tx->due++)) {
			zcnic_tx_mark_broken(tx, slot);
			break;
		}
		/* BQL counts what was queued, in the bytes said there */
		bytes += slot->bytes;
		if (unlikely(slot->stamp))
			zcnic_tx_hwtstamp(pair->zn, slot, length);
		zcnic_tx_release(pair, slot, in_napi);
		chains++;
	}
	if (!in_napi) {
		/* what a device that is stopped gives back has no order, and all of it is ours */
		tx->due = tx->sequence;
	} else if (!netif_txq_completed_wake(txq, chains, bytes,
					     zcnic_tx_room(tx),
					     ZCNIC_TX_DESCS)) {
		u64_stats_update_begin(&tx->stats.syncp);
		u64_stats_inc(&tx->stats.wake);
		u64_stats_update_end(&tx->stats.syncp);
	}
	__netif_tx_unlock_bh(txq);
	return chains;
}

/**
 * zcnic_tx_timed_out() - see whether a queue that has something to send makes progress
 * @tx: the queue, started; to be asked again and again
 *
 * The core watches only queues that are full, and a flow whose frames don't come back fills none: TCP
 * sends nothing again that is still in a queue.
 *
 * Return: whether nothing was completed for too long.
 */
bool zcnic_tx_timed_out(struct zcnic_tx *tx)
{
	u16 due = READ_ONCE(tx->due);

	if (!READ_ONCE(tx->used) || !tx->progress_since ||
	    due != tx->progress_due) {
		tx->progress_due = due;
		tx->progress_since = jiffies ?: 1;
		return false;
	}
	return time_after(jiffies, tx->progress_since + ZCNIC_TX_TIMEOUT);
}

/**
 * zcnic_tx_reset_accounting() - take frames that nobody will complete soon out of the queue's accounts
 * @pair: the pair; neither NAPI nor ndo_start_xmit uses it
 *
 * They stay in the ring until the device returns them or is reset.
 */
void zcnic_tx_reset_accounting(struct zcnic_pair *pair)
{
	struct zcnic_tx *tx = &pair->tx;
	u32 i;

	for (i = 0; i < tx->slot_count; i++) {
		tx->slots[i].bytes = 0;
		if (tx->slots[i].skb)
			skb_orphan(tx->slots[i].skb);
	}
	netdev_tx_reset_queue(netdev_get_tx_queue(pair->zn->dev, pair->index));
}

/**
 * zcnic_tx_detach() - free everything in the ring of a device that was reset
 * @pair: the pair
 */
void zcnic_tx_detach(struct zcnic_pair *pair)
{
	struct zcnic_tx *tx = &pair->tx;
	struct zcnic_tx_slot *slot;

	while ((slot = virtqueue_detach_unused_buf(tx->vq)))
		zcnic_tx_release(pair, slot, 0);
	while ((slot = tx->quarantine)) {
		tx->quarantine = slot->next;
		zcnic_tx_release(pair, slot, 0);
	}
	tx->due = tx->sequence;
	tx->started = false;
	netdev_tx_reset_queue(netdev_get_tx_queue(pair->zn->dev, pair->index));
}
