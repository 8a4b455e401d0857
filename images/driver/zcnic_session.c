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
/* A device that can't be trusted for longer than that is not worth more. */
#define ZCNIC_RESET_PAUSE		HZ
#define ZCNIC_ORPHAN_TIMEOUT		(10 * HZ)

/**
 * zcnic_service_schedule() - have the service work look after the device
 * @zn: the device
 *
 * From any context.
 */
void zcnic_service_schedule(struct zcnic *zn)
{
	mod_delayed_work(system_dfl_wq, &zn->service, 0);
}

/**
 * zcnic_request_reset() - ask for a device reset
 * @zn: the device
 *
 * From any context.
 */
void zcnic_request_reset(struct zcnic *zn)
{
	if (!test_and_set_bit(ZCNIC_WORK_RESET, &zn->work))
		zcnic_service_schedule(zn);
}

/**
 * zcnic_request_session() - ask for a new session
 * @zn: the device; the caller holds the instance lock, not the command lock
 *
 * For when the device is not in the state that it should be in. Until then nobody talks to it.
 */
void zcnic_request_session(struct zcnic *zn)
{
	mutex_lock(&zn->command_lock);
	zn->live = false;
	mutex_unlock(&zn->command_lock);
	zcnic_service_schedule(zn);
}

/**
 * zcnic_orphaned() - note that chains are left in a ring
 * @zn: the device
 */
void zcnic_orphaned(struct zcnic *zn)
{
	if (!zn->orphans_since)
		zn->orphans_since = jiffies ?: 1;
	zcnic_service_schedule(zn);
}

/* Post the event buffers that are not in the ring. */
static void zcnic_events_post(struct zcnic *zn)
{
	struct scatterlist sg;
	bool added = false;
	int i;

	for (i = 0; i < ZCNIC_EVENTS; i++) {
		if (zn->events_posted[i])
			continue;
		sg_init_one(&sg, &zn->events[i], sizeof(zn->events[i]));
		if (virtqueue_add_inbuf(zn->event_vq, &sg, 1, &zn->events[i],
					GFP_KERNEL))
			break;
		zn->events_posted[i] = true;
		added = true;
	}
	if (added)
		virtqueue_kick(zn->event_vq);
}

/* Events are hints. STATUS, which is asked anyway, says what the link does and whether the session is over. */
static void zcnic_events_clean(struct zcnic *zn)
{
	struct zcnic_event *event;
	unsigned int length;

	while ((event = virtqueue_get_buf(zn->event_vq, &length)))
		zn->events_posted[event - zn->events] = false;
}

void zcnic_event_callback(struct virtqueue *vq)
{
	zcnic_service_schedule(vq->vdev->priv);
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

/**
 * zcnic_reset_prepare() - stop driving the device
 * @vdev: the device
 *
 * All buffers come back, providers stay bound: their pools wait for new chains.
 */
int zcnic_reset_prepare(struct virtio_device *vdev)
{
	struct zcnic *zn = vdev->priv;
	bool nested = zn->resetter == current;
	u16 i;

	if (!nested)
		netdev_lock(zn->dev);
	netif_carrier_off(zn->dev);
	zcnic_pairs_napi_stop(zn);
	if (netif_running(zn->dev))
		netif_tx_disable(zn->dev);
	if (zn->present) {
		mutex_lock(&zn->command_lock);
		zn->present = false;
		zn->live = false;
		mutex_unlock(&zn->command_lock);
		virtio_reset_device(vdev);
		for (i = 0; i < zn->pair_count; i++) {
			zcnic_rx_detach(&zn->pairs[i]);
			zcnic_tx_detach(&zn->pairs[i]);
		}
		memset(zn->events_posted, 0, sizeof(zn->events_posted));
		zn->orphans_since = 0;
		zcnic_vqs_del(zn);
	}
	/* not before: until here NAPI asked for it again and again */
	clear_bit(ZCNIC_WORK_RESET, &zn->work);
	zcnic_pairs_napi_start(zn);
	if (!nested)
		netdev_unlock(zn->dev);
	return 0;
}

/**
 * zcnic_reset_done() - drive the device again
 * @vdev: the device, its features negotiated
 *
 * Return: 0 or a negative errno; having no backend is none.
 */
int zcnic_reset_done(struct virtio_device *vdev)
{
	struct zcnic *zn = vdev->priv;
	bool nested = zn->resetter == current;
	int err;

	if (!nested)
		netdev_lock(zn->dev);
	err = zcnic_device_start(zn);
	if (!nested)
		netdev_unlock(zn->dev);
	if (!err)
		zcnic_service_schedule(zn);
	return err;
}

/**
 * zcnic_device_start() - find the rings and set the device going
 * @zn: the device; the caller holds the instance lock
 *
 * Return: 0 or a negative errno.
 */
int zcnic_device_start(struct zcnic *zn)
{
	u16 i;
	int err;

	err = zcnic_vqs_init(zn);
	if (err)
		return err;
	virtio_device_ready(zn->vdev);
	zcnic_pairs_napi_stop(zn);
	zn->present = true;
	for (i = 0; i < zn->pair_count; i++)
		if (zn->pairs[i].open)
			zcnic_napi_set_irq(&zn->pairs[i]);
	zcnic_pairs_napi_start(zn);
	return zcnic_vqs_enable_pairs(zn);
}

/**
 * zcnic_reset() - reset the device and begin anew
 * @zn: the device; the caller holds the instance lock, not the command lock
 *
 * Afterwards nothing is in any ring.
 */
void zcnic_reset(struct zcnic *zn)
{
	int err;

	netdev_warn(zn->dev, "resetting the device\n");
	zn->resets++;
	zn->next_reset = (jiffies + ZCNIC_RESET_PAUSE) ?: 1;
	zn->resetter = current;
	err = virtio_device_reset_prepare(zn->vdev) ?:
		      virtio_device_reset_done(zn->vdev);
	zn->resetter = NULL;
	if (err) {
		netdev_err(zn->dev,
			   "the device doesn't come back from a reset: %d\n",
			   err);
		set_bit(ZCNIC_WORK_RESET, &zn->work);
	}
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

	netdev_lock(zn->dev);
	features = zn->features;
	if (zcnic_reset_wanted(zn)) {
		if (zn->next_reset && time_before(jiffies, zn->next_reset)) {
			delay = zn->next_reset - jiffies;
			goto unlock;
		}
		zcnic_reset(zn);
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
