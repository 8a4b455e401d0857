// SPDX-License-Identifier: GPL-2.0-only
/*
 * One NAPI instance per pair. The interrupts of both rings schedule it; it counts as using the receive
 * ring's. Transmit completions are handled here and nowhere else, so that interrupt mitigation
 * (napi_defer_hard_irqs, gro_flush_timeout, busy polling) holds for them as well.
 */
#include <linux/pci.h>
#include <linux/virtio.h>

#include "zcnic.h"

/* How often a queue that has run out of buffers tries to get some: nothing will interrupt it. */
#define ZCNIC_REFILL_INTERVAL		(HZ / 50)

void zcnic_ring_callback(struct virtqueue *vq)
{
	struct zcnic *zn = vq->vdev->priv;
	struct zcnic_pair *pair = &zn->pairs[vq->index / 2];

	/* a NAPI instance that was there once may be scheduled, one that never was may not */
	if (READ_ONCE(pair->open))
		napi_schedule(&pair->napi);
}

/*
 * Refill starvation: when all buffers are with the user of a memory provider, none is posted, so none
 * comes back, so no interrupt ever asks for a refill. This does.
 */
void zcnic_refill_timer(struct timer_list *timer)
{
	struct zcnic_pair *pair = timer_container_of(pair, timer, refill_timer);

	napi_schedule(&pair->napi);
}

/*
 * Between napi_complete_done() and the enabling of callbacks another CPU may begin to poll, for example
 * because of the starvation timer. Were both to write the rings' event indices, a stale one could win
 * and no interrupt would come any more. So the enabling is left to the other one if there is one.
 */
static void zcnic_poll_begin(struct zcnic_pair *pair)
{
	spin_lock(&pair->callback_lock);
	pair->polling = true;
	pair->armed = false;
	virtqueue_disable_cb(pair->rx.vq);
	virtqueue_disable_cb(pair->tx.vq);
	spin_unlock(&pair->callback_lock);
}

/* Was anything used since the callbacks were enabled? */
static bool zcnic_pair_used(const struct zcnic_pair *pair)
{
	return virtqueue_poll(pair->rx.vq, pair->armed_rx) ||
	       virtqueue_poll(pair->tx.vq, pair->armed_tx);
}

static void zcnic_poll_end(struct zcnic_pair *pair)
{
	struct netdev_queue *txq =
		netdev_get_tx_queue(pair->zn->dev, pair->index);
	bool more = false;

	spin_lock(&pair->callback_lock);
	if (!pair->polling) {
		pair->armed_rx = virtqueue_enable_cb_prepare(pair->rx.vq);
		/* netpoll may reap at the same time */
		__netif_tx_lock(txq, smp_processor_id());
		pair->armed_tx = virtqueue_enable_cb_prepare(pair->tx.vq);
		__netif_tx_unlock(txq);
		more = zcnic_pair_used(pair);
		pair->armed = !more;
		pair->armings++;
	}
	spin_unlock(&pair->callback_lock);
	if (more)
		napi_schedule(&pair->napi);
}

int zcnic_poll(struct napi_struct *napi, int budget)
{
	struct zcnic_pair *pair = container_of(napi, struct zcnic_pair, napi);
	bool depleted, more;
	unsigned int sent;
	int received;

	/* Changes only while no pair is polled. */
	if (unlikely(!pair->zn->present)) {
		napi_complete_done(napi, 0);
		return 0;
	}
	if (!budget) {
		/*
		 * netpoll, which doesn't own the NAPI instance: nobody would enable callbacks again. With
		 * interrupts off, XDP's frames can't be freed.
		 */
		if (!READ_ONCE(pair->tx.frames))
			zcnic_tx_clean(pair, true);
		return 0;
	}
	zcnic_poll_begin(pair);
	sent = zcnic_tx_clean(pair, true);
	received = zcnic_rx_poll(pair, budget);
	depleted = zcnic_rx_fill(pair, GFP_ATOMIC | __GFP_NOWARN);
	if (depleted)
		mod_timer(&pair->refill_timer, jiffies + ZCNIC_REFILL_INTERVAL);
	/* a used element that can't be stops a virtqueue for good */
	if (unlikely(virtqueue_is_broken(pair->rx.vq) ||
		     virtqueue_is_broken(pair->tx.vq)))
		zcnic_request_reset(pair->zn);
	more = zcnic_xsk_send(pair);
	if (received >= budget || more)
		return budget;

	received = min_t(unsigned int, max_t(unsigned int, received, sent),
			 budget - 1);
	WRITE_ONCE(pair->polling, false);
	if (napi_complete_done(napi, received))
		zcnic_poll_end(pair);
	return received;
}

/**
 * zcnic_napi_start() - let a pair be polled
 * @pair: the pair, open; the caller holds the instance lock
 *
 * Whoever stops it starts it again before the instance lock is let go, device or no device: the core
 * waits under that lock until an instance that exists is enabled (napi_stop_kthread()).
 */
void zcnic_napi_start(struct zcnic_pair *pair)
{
	if (pair->napi_on)
		return;
	pair->napi_on = true;
	napi_enable_locked(&pair->napi);
	/* what happened meanwhile raised no interrupt that anybody saw; in BH, or it runs in ksoftirqd */
	local_bh_disable();
	napi_schedule(&pair->napi);
	local_bh_enable();
}

/**
 * zcnic_napi_stop() - keep a pair from being polled; the caller owns its rings then
 * @pair: the pair; the caller holds the instance lock
 */
void zcnic_napi_stop(struct zcnic_pair *pair)
{
	if (!pair->napi_on)
		return;
	napi_disable_locked(&pair->napi);
	timer_delete_sync(&pair->refill_timer);
	if (pair->zn->present) {
		virtqueue_disable_cb(pair->rx.vq);
		virtqueue_disable_cb(pair->tx.vq);
	}
	pair->napi_on = false;
	pair->armed = false;
}

/**
 * zcnic_pairs_napi_start() - let all open pairs be polled
 * @zn: the device; the caller holds the instance lock
 */
void zcnic_pairs_napi_start(struct zcnic *zn)
{
	u16 i;

	for (i = 0; i < zn->pair_count; i++)
		if (zn->pairs[i].open)
			zcnic_napi_start(&zn->pairs[i]);
}

/**
 * zcnic_pairs_napi_stop() - keep all pairs from being polled
 * @zn: the device; the caller holds the instance lock
 */
void zcnic_pairs_napi_stop(struct zcnic *zn)
{
	u16 i;

	for (i = 0; i < zn->pair_count; i++)
		zcnic_napi_stop(&zn->pairs[i]);
}

/**
 * zcnic_napi_set_irq() - tell the core which interrupt is the pair's
 * @pair: the pair, its NAPI instance added; the caller holds the instance lock
 */
void zcnic_napi_set_irq(struct zcnic_pair *pair)
{
	struct zcnic *zn = pair->zn;
	int irq = -1;

	/* vector 0 is for configuration, and all rings before this one have a vector of their own */
	if (zn->present)
		irq = pci_irq_vector(to_pci_dev(zn->vdev->dev.parent),
				     1 + 2 * pair->index);
	netif_napi_set_irq_locked(&pair->napi, irq);
}

/*
 * An interrupt that gets lost is the last one: the ring's event index stays behind. So whoever looks
 * after the device from time to time sees whether one is missing that was missing at the last look, too.
 * Return: whether it is to be looked again soon.
 */
static bool zcnic_interrupt_missing(struct zcnic_pair *pair)
{
	bool due, lost;

	spin_lock_bh(&pair->callback_lock);
	due = pair->armed && zcnic_pair_used(pair);
	lost = due && pair->overdue == pair->armings;
	pair->overdue = due ? pair->armings : pair->armings - 1;
	spin_unlock_bh(&pair->callback_lock);
	if (!lost)
		return due;

	local_bh_disable();
	u64_stats_update_begin(&pair->rx.stats.syncp);
	u64_stats_inc(&pair->rx.stats.lost_interrupts);
	u64_stats_update_end(&pair->rx.stats.syncp);
	napi_schedule(&pair->napi);
	local_bh_enable();
	return false;
}

/**
 * zcnic_interrupts_missing() - poll pairs whose interrupts got lost
 * @zn: the device, present; the caller holds the instance lock
 *
 * Return: whether it is to be looked again soon.
 */
bool zcnic_interrupts_missing(struct zcnic *zn)
{
	bool again = false;
	u16 i;

	for (i = 0; i < zn->pair_count; i++)
		if (zn->pairs[i].napi_on)
			again |= zcnic_interrupt_missing(&zn->pairs[i]);
	return again;
}
