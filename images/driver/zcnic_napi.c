// SPDX-License-Identifier: GPL-2.0-only
/*
 * One NAPI instance per pair. The interrupts of both rings schedule it; it
 * shows the receive ring's as its own. Transmit completions are handled only
 * here, so that napi_defer_hard_irqs, gro_flush_timeout and busy polling cover
 * them, too.
 */
#include <linux/pci.h>
#include <linux/virtio.h>

#include "zcnic_command.h"
#include "zcnic_queue.h"
#include "zcnic_xdp.h"

/* Between refills of a depleted ring, which raises no interrupt */
#define ZCNIC_REFILL_INTERVAL		(HZ / 50)

void zcnic_ring_callback(struct virtqueue *vq)
{
	struct zcnic *zn = vq->vdev->priv;
	struct zcnic_pair *pair;

	pair = &zn->pairs[vq->index / 2];
	/* a deleted NAPI instance may be scheduled, one never added may not */
	if (READ_ONCE(pair->open))
		napi_schedule(&pair->napi);
}

/**
 * zcnic_refill_timer() - poll a pair whose receive ring is depleted
 * @timer: the pair's
 *
 * While the user of a memory provider has all buffers, none is posted, so none
 * is used, and no interrupt makes NAPI refill the ring.
 */
void zcnic_refill_timer(struct timer_list *timer)
{
	struct zcnic_pair *pair = timer_container_of(pair, timer, refill_timer);

	napi_schedule(&pair->napi);
}

/*
 * Between napi_complete_done() and the enabling of callbacks another CPU may
 * begin to poll, for example because of the refill timer. If both wrote the
 * rings' event indices, a stale index could be written last, and no interrupt
 * would come any more. So if there is such a CPU, it enables the callbacks.
 */
static void zcnic_poll_begin(struct zcnic_pair *pair)
{
	spin_lock(&pair->callback_lock);
	pair->polling = true;
	pair->armed = false;
	if (unlikely(pair->interrupt_lost))
		zcnic_rx_count(&pair->rx, &pair->rx.stats.lost_interrupts);
	pair->interrupt_lost = false;
	virtqueue_disable_cb(pair->rx.vq);
	virtqueue_disable_cb(pair->tx.vq);
	spin_unlock(&pair->callback_lock);
}

/* Whether anything was used since the callbacks were enabled */
static bool zcnic_pair_used(const struct zcnic_pair *pair)
{
	return virtqueue_poll(pair->rx.vq, pair->armed_rx) ||
	       virtqueue_poll(pair->tx.vq, pair->armed_tx);
}

static void zcnic_poll_end(struct zcnic_pair *pair)
{
	struct net_device *dev = pair->zn->dev;
	struct netdev_queue *txq;
	bool more = false;

	txq = netdev_get_tx_queue(dev, pair->index);
	spin_lock(&pair->callback_lock);
	if (!pair->polling) {
		pair->armed_rx = virtqueue_enable_cb_prepare(pair->rx.vq);
		/* netpoll may clean the ring at the same time */
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
	struct zcnic *zn = pair->zn;
	bool depleted, more;
	unsigned int sent;
	int received;

	/* changes only while no pair is polled */
	if (unlikely(!zn->present)) {
		napi_complete_done(napi, 0);
		return 0;
	}
	/*
	 * netpoll doesn't own the NAPI instance, so callbacks stay as they are:
	 * nothing would enable them again.
	 */
	if (unlikely(!budget)) {
		zcnic_tx_poll(pair, 0);
		return 0;
	}
	zcnic_poll_begin(pair);
	sent = zcnic_tx_poll(pair, budget);
	received = zcnic_rx_poll(pair, budget);
	depleted = zcnic_rx_fill(pair, GFP_ATOMIC | __GFP_NOWARN);
	if (depleted)
		mod_timer(&pair->refill_timer, jiffies + ZCNIC_REFILL_INTERVAL);
	/* an invalid used element breaks a virtqueue until a reset */
	if (unlikely(virtqueue_is_broken(pair->rx.vq) ||
		     virtqueue_is_broken(pair->tx.vq)))
		zcnic_request_reset(zn);
	more = zcnic_xsk_send(pair);
	if (received >= budget || more)
		return budget;

	received = max_t(unsigned int, received, sent);
	received = min_t(unsigned int, received, budget - 1);
	WRITE_ONCE(pair->polling, false);
	if (napi_complete_done(napi, received))
		zcnic_poll_end(pair);
	return received;
}

/**
 * zcnic_napi_start() - let a pair be polled
 * @pair: the pair, open; the caller holds the instance lock
 *
 * After zcnic_napi_stop() this is called before the instance lock is released,
 * also while the device is absent: the core waits under that lock until an
 * instance that exists is enabled (napi_stop_kthread()).
 */
void zcnic_napi_start(struct zcnic_pair *pair)
{
	if (pair->napi_on)
		return;
	pair->napi_on = true;
	napi_enable_locked(&pair->napi);
	/* interrupts were lost meanwhile; with BHs on, ksoftirqd would poll */
	local_bh_disable();
	napi_schedule(&pair->napi);
	local_bh_enable();
}

/**
 * zcnic_napi_stop() - disable polling and take over the rings
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
 * zcnic_napi_set_irq() - register the pair's interrupt with the core
 * @pair: the pair, its NAPI instance added; the caller holds the instance lock
 */
void zcnic_napi_set_irq(struct zcnic_pair *pair)
{
	struct zcnic *zn = pair->zn;
	int irq = -1;

	/* vector 0 is for configuration, then there is one per ring */
	if (zn->present)
		irq = pci_irq_vector(to_pci_dev(zn->vdev->dev.parent),
				     1 + 2 * pair->index);
	netif_napi_set_irq_locked(&pair->napi, irq);
}

/*
 * A lost interrupt leaves the ring's used index beyond its event index, and the
 * device sends no further one. Two checks in a row that see this with the same
 * arming poll the pair.
 *
 * Return: whether the first of two checks has seen it.
 */
static bool zcnic_interrupt_missing(struct zcnic_pair *pair)
{
	bool due, lost;

	spin_lock_bh(&pair->callback_lock);
	due = pair->armed && zcnic_pair_used(pair);
	lost = due && pair->overdue == pair->armings;
	pair->overdue = due ? pair->armings : pair->armings - 1;
	pair->interrupt_lost |= lost;
	spin_unlock_bh(&pair->callback_lock);
	if (!lost)
		return due;

	local_bh_disable();
	napi_schedule(&pair->napi);
	local_bh_enable();
	return false;
}

/**
 * zcnic_interrupts_missing() - poll pairs whose interrupts were lost
 * @zn: the device, present; the caller holds the instance lock
 *
 * Return: whether a second check is due soon.
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
