// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sessions: who the device is today, and making it what the interface is set to.
 *
 * A backend can go and another one come at any time. While it is away the link is down; setters only
 * store, queues only note what is wanted. When the link is up, STATUS tells whether the session is still
 * the device's. If not, HELLO begins a new one and everything is replayed. If that doesn't work although
 * somebody is there, or a ring is broken, or chains don't come home, the device is reset.
 *
 * All of this is done by one work item, under the instance lock.
 */
#include <linux/rtnetlink.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/workqueue.h>
#include <net/netdev_lock.h>

#include "zcnic.h"

#define ZCNIC_RETRY_INTERVAL		(HZ / 2)
#define ZCNIC_RESET_INTERVAL		(5 * HZ)
#define ZCNIC_STATS_INTERVAL		(2 * HZ)
/* How long an interrupt may take. */
#define ZCNIC_INTERRUPT_INTERVAL	(HZ / 4)

#define ZCNIC_ORPHAN_TIMEOUT		(10 * HZ)

/**
 * zcnic_set_max_mtu() - allow what fits the device's frames and our chains
 * @zn: the device; the caller holds the instance lock, or nobody sees the interface yet
 */
void zcnic_set_max_mtu(struct zcnic *zn)
{
	u32 chain = ZCNIC_LINEAR_SIZE(ZCNIC_LINEAR_TRUESIZE) -
		    sizeof(struct zcnic_rx_header);
	u32 chains = min_t(u32, zn->max_chains, MAX_SKB_FRAGS);

	zn->dev->min_mtu = ETH_MIN_MTU;
	zn->dev->max_mtu =
		min(zn->max_frame, chain * chains) - ETH_HLEN - VLAN_HLEN;
}

static int zcnic_replay(struct zcnic *zn)
{
	int err;
	u16 i;

	err = zcnic_send_offloads(zn, zn->dev->features) ?:
		      zcnic_send_coalesce(zn)		 ?:
		      zcnic_send_rx_mode(zn)		 ?:
		      zcnic_rss_replay(zn)		 ?:
							   zcnic_rules_replay(zn);
	for (i = 0; i < zn->channels && !err; i++)
		if (zn->pairs[i].open)
			err = zcnic_pair_start(&zn->pairs[i]);
	return err;
}

/* It is tried again until it works, and each reason said once. */
static void zcnic_session_failed(struct zcnic *zn, const char *what, int err)
{
	if (err != zn->session_error && !zcnic_disconnected(err))
		netdev_err(zn->dev, "the device %s: %d\n", what, err);
	zn->session_error = err;
}

/**
 * zcnic_session_establish() - begin a session and restore the configuration
 * @zn: the device, present; the caller holds the instance lock
 *
 * HELLO has the device return the chains of all rings, those of queues that were stopped while no backend was
 * there included. Until they are drained nobody else may use the rings.
 *
 * Return: 0, or a negative errno with the interface as it was, without a session.
 */
int zcnic_session_establish(struct zcnic *zn)
{
	bool running = netif_running(zn->dev);
	bool drained = true;
	int err;
	u16 i;

	/* in this order: NAPI wakes queues */
	zcnic_pairs_napi_stop(zn);
	if (running)
		netif_tx_disable(zn->dev);

	err = zcnic_hello(zn);
	if (err) {
		zcnic_session_failed(zn, "doesn't begin a session", err);
		goto resume;
	}
	zcnic_set_max_mtu(zn);
	for (i = 0; i < zn->pair_count; i++) {
		struct zcnic_pair *pair = &zn->pairs[i];

		pair->rx.started = false;
		pair->tx.started = false;
		drained &= zcnic_pair_drain(pair);
		zcnic_tx_reset_accounting(pair);
	}
	if (!drained) {
		netdev_err(zn->dev, "HELLO didn't return all chains\n");
		zcnic_request_reset(zn);
		err = -ENOTCONN;
		zn->live = false;
		goto resume;
	}
	zn->orphans_since = 0;
	zcnic_events_clean(zn);
	zcnic_events_post(zn);
	err = zcnic_replay(zn);
	if (err) {
		/* half a configuration is none */
		zcnic_session_failed(zn, "refused its configuration", err);
		zn->live = false;
	} else {
		zn->session_error = 0;
	}

resume:
	zcnic_pairs_napi_start(zn);
	if (running)
		netif_tx_wake_all_queues(zn->dev);
	return err;
}

static bool zcnic_link_configured(struct zcnic *zn)
{
	return virtio_cread16(zn->vdev,
			      offsetof(struct virtio_net_config, status)) &
	       VIRTIO_NET_S_LINK_UP;
}

static int zcnic_status(struct zcnic *zn, bool *link)
{
	struct zcnic_status_response response;
	struct zcnic_request request;
	int err;

	err = zcnic_command(zn, ZCNIC_CMD_STATUS, &request, sizeof(request),
			    &response, sizeof(response));
	if (!err)
		*link = le32_to_cpu(response.flags) & ZCNIC_STATUS_LINK_UP;
	return err;
}

/* Return: whether there is a session. */
static bool zcnic_session_check(struct zcnic *zn)
{
	bool link = netif_carrier_ok(zn->dev);

	zn->linked = zcnic_link_configured(zn);
	if (zn->linked) {
		/* a STATUS that is refused says nothing, and changes nothing */
		if (!zn->live || zcnic_disconnected(zcnic_status(zn, &link))) {
			if (!zcnic_session_establish(zn))
				zcnic_status(zn, &link);
		}
		if (zn->live) {
			zcnic_events_clean(zn);
			zcnic_events_post(zn);
		}
	}
	link &= zn->linked && zn->live;
	if (link && !netif_carrier_ok(zn->dev)) {
		netdev_info(zn->dev, "link up\n");
		netif_carrier_on(zn->dev);
	} else if (!link && netif_carrier_ok(zn->dev)) {
		netdev_info(zn->dev, "link down\n");
		netif_carrier_off(zn->dev);
	}
	return zn->live;
}

static bool zcnic_orphans_overdue(const struct zcnic *zn)
{
	return zn->orphans_since &&
	       time_after(jiffies, zn->orphans_since + ZCNIC_ORPHAN_TIMEOUT);
}

/* NAPI notices its own rings, if anything makes it run: a broken ring raises no interrupt. */
static bool zcnic_ring_broken(const struct zcnic *zn)
{
	u16 i;

	if (!zn->present)
		return false;
	for (i = 0; i < zn->pair_count; i++)
		if (virtqueue_is_broken(zn->pairs[i].rx.vq) ||
		    virtqueue_is_broken(zn->pairs[i].tx.vq))
			return true;
	return virtqueue_is_broken(zn->event_vq) ||
	       virtqueue_is_broken(zn->command_vq);
}

static void zcnic_check_tx_timeout(struct zcnic *zn)
{
	u16 i;

	for (i = 0; i < zn->channels; i++)
		if (zn->pairs[i].tx.started &&
		    zcnic_tx_timed_out(&zn->pairs[i].tx)) {
			netdev_err(zn->dev,
				   "transmit queue %u makes no progress\n", i);
			zcnic_request_reset(zn);
		}
}

static bool zcnic_reset_wanted(const struct zcnic *zn)
{
	return test_bit(ZCNIC_WORK_RESET, &zn->work) ||
	       zcnic_orphans_overdue(zn) || zcnic_ring_broken(zn);
}

static void zcnic_service(struct work_struct *work)
{
	struct zcnic *zn =
		container_of(to_delayed_work(work), struct zcnic, service);
	unsigned long delay = 0;
	u64 features;
	int err;

	netdev_lock(zn->dev);
	features = zn->features;
	if (zcnic_reset_wanted(zn)) {
		if (zn->next_reset && time_before(jiffies, zn->next_reset)) {
			delay = zn->next_reset - jiffies;
			goto unlock;
		}
		netdev_unlock(zn->dev);
		err = zcnic_reset(zn);
		netdev_lock(zn->dev);
		if (err) {
			delay = ZCNIC_RETRY_INTERVAL;
			goto unlock;
		}
	}
	if (zn->present) {
		if (!zcnic_session_check(zn)) {
			delay = zn->linked || zn->orphans_since ?
					ZCNIC_RETRY_INTERVAL :
					0;
		} else if (netif_running(zn->dev)) {
			zcnic_stats_fetch(zn);
			zcnic_check_tx_timeout(zn);
			delay = zcnic_interrupts_missing(zn) ?
					ZCNIC_INTERRUPT_INTERVAL :
					ZCNIC_STATS_INTERVAL;
		}
	}
	if (test_bit(ZCNIC_WORK_RESET, &zn->work))
		delay = ZCNIC_RESET_INTERVAL;
unlock:
	netdev_unlock(zn->dev);

	/* a backend that knows less than the one before it */
	if (features != zn->features) {
		rtnl_lock();
		netdev_lock(zn->dev);
		netdev_update_features(zn->dev);
		netdev_unlock(zn->dev);
		rtnl_unlock();
	}
	/* whoever asked for it sooner meanwhile is not put off */
	if (delay)
		queue_delayed_work(system_dfl_wq, &zn->service, delay);
}

/**
 * zcnic_session_init() - prepare the service work, which does nothing yet
 * @zn: the device
 */
void zcnic_session_init(struct zcnic *zn)
{
	mutex_init(&zn->command_lock);
	init_completion(&zn->command_done);
	INIT_DELAYED_WORK(&zn->service, zcnic_service);
	disable_delayed_work(&zn->service);
}
