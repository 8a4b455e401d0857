// SPDX-License-Identifier: GPL-2.0-only
/*
 * The transmit ring: completing frames, and taking them back from a device that
 * is stopped or was reset. Ring, slots and counters are under the transmit
 * queue's lock, or NAPI and transmit are both stopped.
 */
#include <linux/dma-mapping.h>
#include <linux/virtio.h>
#include <net/netdev_queues.h>
#include <net/xdp_sock_drv.h>

#include "zcnic.h"

/* The longest that a frame may take to complete */
#define ZCNIC_TX_TIMEOUT	(5 * HZ)

/**
 * zcnic_tx_slots_alloc() - allocate slots and headers of a transmit ring
 * @pair: the pair
 *
 * Return: 0, or -ENOMEM with zcnic_tx_slots_free() to be called.
 */
int zcnic_tx_slots_alloc(struct zcnic_pair *pair)
{
	struct zcnic_tx *tx = &pair->tx;
	struct zcnic *zn = pair->zn;
	size_t size;
	u32 i;

	/* a frame takes two descriptors at least: header and linear part */
	tx->slot_count = zn->tx_ring_size / 2;
	tx->slots = kvcalloc(tx->slot_count, sizeof(*tx->slots), GFP_KERNEL);
	size = tx->slot_count * sizeof(*tx->headers);
	tx->headers = dma_alloc_coherent(zn->dma_dev, size + ETH_ZLEN,
					 &tx->headers_dma, GFP_KERNEL);
	tx->padding_dma = tx->headers_dma + size;
	if (!tx->slots || !tx->headers)
		return -ENOMEM;
	for (i = 0; i < tx->slot_count; i++) {
		tx->slots[i].next = tx->free;
		tx->free = &tx->slots[i];
	}
	return 0;
}

/**
 * zcnic_tx_slots_free() - free them, none of them in the ring
 * @pair: the pair
 */
void zcnic_tx_slots_free(struct zcnic_pair *pair)
{
	struct zcnic_tx *tx = &pair->tx;
	size_t size;

	size = tx->slot_count * sizeof(*tx->headers);
	if (tx->headers)
		dma_free_coherent(pair->zn->dma_dev, size + ETH_ZLEN,
				  tx->headers, tx->headers_dma);
	kvfree(tx->slots);
	tx->headers = NULL;
	tx->slots = NULL;
	tx->free = NULL;
}

/**
 * zcnic_tx_unmap() - undo zcnic_tx_map()
 * @zn: the device
 * @slot: the frame's
 */
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

static void zcnic_tx_hwtstamp(struct zcnic_pair *pair,
			      struct zcnic_tx_slot *slot, u32 length)
{
	bool lost = length < sizeof(slot->stamp->time);
	struct zcnic_tx_stats *stats = &pair->tx.stats;
	struct skb_shared_hwtstamps times = {};

	u64_stats_update_begin(&stats->syncp);
	u64_stats_inc(lost ? &stats->hwtstamps_lost : &stats->hwtstamps);
	u64_stats_update_end(&stats->syncp);
	if (lost)
		return;
	times.hwtstamp = zcnic_time(slot->stamp->time.timestamp_ns);
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
		xsk_tx_completed(pair->tx.xsk, slot->xsk_descs);
	}
	zcnic_tx_slot_put(&pair->tx, slot);
}

/* As zcnic_rx_mark_broken(): the device may not have sent the frame yet. */
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

/*
 * Free the frames that the device has sent; the caller holds the queue's lock.
 * A queue that is in use completes them @in_order, one that was stopped returns
 * chains in any order, all of them unused.
 *
 * Return: number of chains.
 */
static unsigned int zcnic_tx_clean(struct zcnic_pair *pair, bool in_order,
				   int budget)
{
	unsigned int chains = 0, bytes = 0, length;
	struct zcnic_tx *tx = &pair->tx;
	struct zcnic_tx_slot *slot;
	struct netdev_queue *txq;

	while (chains < tx->slot_count) {
		slot = virtqueue_get_buf(tx->vq, &length);
		if (!slot)
			break;
		if (in_order && unlikely(slot->sequence != tx->due++)) {
			zcnic_tx_mark_broken(tx, slot);
			break;
		}
		/* as counted by netdev_tx_sent_queue(), 0 for frames of XDP */
		bytes += slot->bytes;
		if (unlikely(slot->stamp))
			zcnic_tx_hwtstamp(pair, slot, length);
		zcnic_tx_release(pair, slot, budget);
		chains++;
	}
	if (!in_order) {
		tx->due = tx->sequence;
		return chains;
	}
	txq = netdev_get_tx_queue(pair->zn->dev, pair->index);
	if (!netif_txq_completed_wake(txq, chains, bytes, zcnic_tx_room(tx),
				      zcnic_tx_wake_room(tx))) {
		u64_stats_update_begin(&tx->stats.syncp);
		u64_stats_inc(&tx->stats.wake);
		u64_stats_update_end(&tx->stats.syncp);
	}
	return chains;
}

/**
 * zcnic_tx_poll() - free the frames that a queue in use has sent
 * @pair: the pair; BHs are disabled
 * @budget: of NAPI; 0: called by netpoll, with interrupts off
 *
 * Return: number of chains.
 */
unsigned int zcnic_tx_poll(struct zcnic_pair *pair, int budget)
{
	struct zcnic_tx *tx = &pair->tx;
	struct netdev_queue *txq;
	unsigned int chains = 0;

	txq = netdev_get_tx_queue(pair->zn->dev, pair->index);
	/* netpoll may have interrupted the owner of the lock */
	if (likely(budget))
		__netif_tx_lock(txq, smp_processor_id());
	else if (!__netif_tx_trylock(txq))
		return 0;
	/* with interrupts off, frames of XDP can't be freed */
	if (budget || !tx->frames)
		chains = zcnic_tx_clean(pair, true, budget);
	__netif_tx_unlock(txq);
	return chains;
}

/**
 * zcnic_tx_drain() - take back the frames that a stopped queue has returned
 * @pair: the pair, its NAPI stopped
 */
void zcnic_tx_drain(struct zcnic_pair *pair)
{
	struct netdev_queue *txq;

	txq = netdev_get_tx_queue(pair->zn->dev, pair->index);
	__netif_tx_lock_bh(txq);
	zcnic_tx_clean(pair, false, 0);
	__netif_tx_unlock_bh(txq);
}

/**
 * zcnic_tx_timed_out() - check a queue that has frames in its ring for progress
 * @pair: the pair, started; to be called every few seconds
 *
 * The core's watchdog covers stopped queues only. A flow whose frames don't
 * complete stops none: TCP doesn't retransmit what is still in a queue.
 *
 * The user may have NAPI deferred for longer than the time-out
 * (napi_defer_hard_irqs), so the ring decides.
 *
 * Return: whether the device has completed nothing for too long.
 */
bool zcnic_tx_timed_out(struct zcnic_pair *pair)
{
	struct zcnic_tx *tx = &pair->tx;
	u16 due = READ_ONCE(tx->due);

	if (!READ_ONCE(tx->used) || !tx->progress_since ||
	    due != tx->progress_due) {
		tx->progress_due = due;
		tx->progress_since = jiffies;
		if (!tx->progress_since)
			tx->progress_since = 1;
		return false;
	}
	if (!time_after(jiffies, tx->progress_since + ZCNIC_TX_TIMEOUT))
		return false;
	local_bh_disable();
	zcnic_tx_poll(pair, 1);
	local_bh_enable();
	return READ_ONCE(tx->due) == due;
}

/**
 * zcnic_tx_reset_accounting() - disown frames that won't complete soon
 * @pair: the pair; neither NAPI nor ndo_start_xmit uses it
 *
 * Sockets and byte queue limits no longer wait for them. They stay in the ring
 * until the device returns them or is reset.
 */
void zcnic_tx_reset_accounting(struct zcnic_pair *pair)
{
	struct net_device *dev = pair->zn->dev;
	struct zcnic_tx *tx = &pair->tx;
	u32 i;

	for (i = 0; i < tx->slot_count; i++) {
		tx->slots[i].bytes = 0;
		if (tx->slots[i].skb)
			skb_orphan(tx->slots[i].skb);
	}
	netdev_tx_reset_queue(netdev_get_tx_queue(dev, pair->index));
}

/**
 * zcnic_tx_detach() - free everything in the ring of a device that was reset
 * @pair: the pair
 */
void zcnic_tx_detach(struct zcnic_pair *pair)
{
	struct net_device *dev = pair->zn->dev;
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
	netdev_tx_reset_queue(netdev_get_tx_queue(dev, pair->index));
}
