// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sessions: which backend the device has, and giving it the configuration of
 * the interface.
 *
 * A backend may go and another one come at any time. Meanwhile the link is
 * down, setters store, and queues note what is wanted. With the link up, STATUS
 * shows whether the session is still the device's. If not, HELLO begins a new
 * one and everything is replayed. The device is reset if that fails although
 * there is a backend, if a ring is broken, or if chains don't return.
 *
 * All of this is done by one work item.
 */
#include <linux/rtnetlink.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/workqueue.h>
#include <net/netdev_lock.h>

#include "zcnic_command.h"
#include "zcnic_netdev.h"
#include "zcnic_queue.h"
#include "zcnic_session.h"
#include "zcnic_stats.h"
#include "zcnic_xdp.h"

#define ZCNIC_RETRY_INTERVAL		(HZ / 2)
#define ZCNIC_RESET_INTERVAL		(5 * HZ)
#define ZCNIC_STATS_INTERVAL		(2 * HZ)
/* The longest that an interrupt may take */
#define ZCNIC_INTERRUPT_INTERVAL	(HZ / 4)
#define ZCNIC_ORPHAN_TIMEOUT		(10 * HZ)

/**
 * zcnic_set_max_mtu() - allow the MTUs that device and receive chains can hold
 * @zn: the device; the caller holds the instance lock, or the interface is not
 *	registered yet
 */
void zcnic_set_max_mtu(struct zcnic *zn)
{
	u32 chain = ZCNIC_LINEAR_SIZE(ZCNIC_LINEAR_TRUESIZE) -
		    sizeof(struct zcnic_rx_header);
	u32 chains = min_t(u32, zn->max_chains, MAX_SKB_FRAGS);
	u32 frame = min(zn->max_frame, chain * chains);

	zn->dev->min_mtu = ETH_MIN_MTU;
	zn->dev->max_mtu = frame - ETH_HLEN - VLAN_HLEN;
}

static int zcnic_replay(struct zcnic *zn)
{
	int err;
	u16 i;

	err = zcnic_send_offloads(zn, zn->dev->features);
	if (err)
		return err;
	err = zcnic_send_coalesce(zn);
	if (err)
		return err;
	err = zcnic_clock_replay(zn);
	if (err)
		return err;
	err = zcnic_send_mtu(zn, zn->dev->mtu);
	if (err)
		return err;
	err = zcnic_send_rx_mode(zn);
	if (err)
		return err;
	err = zcnic_rss_replay(zn);
	if (err)
		return err;
	err = zcnic_rules_replay(zn);
	if (err)
		return err;
	for (i = 0; i < zn->channels; i++) {
		if (!zn->pairs[i].open)
			continue;
		err = zcnic_pair_start(&zn->pairs[i]);
		if (err)
			return err;
	}
	return 0;
}

/* The work tries again until it succeeds, and logs each reason once. */
static void zcnic_session_failed(struct zcnic *zn, const char *what, int err)
{
	if (err != zn->session_error && !zcnic_disconnected(err))
		netdev_err(zn->dev, "the device %s: %d\n", what, err);
	zn->session_error = err;
}

/* Take back the chains that HELLO returned. Return: whether all came back. */
static bool zcnic_rings_drain(struct zcnic *zn)
{
	bool drained = true;
	u16 i;

	for (i = 0; i < zn->pair_count; i++) {
		struct zcnic_pair *pair = &zn->pairs[i];

		pair->rx.started = false;
		pair->tx.started = false;
		drained &= zcnic_pair_drain(pair);
		zcnic_tx_reset_accounting(pair);
	}
	return drained;
}

/**
 * zcnic_session_establish() - begin a session and restore the configuration
 * @zn: the device, present; the caller holds the instance lock
 *
 * HELLO makes the device return the chains of all rings, also those of queues
 * that were stopped without a backend. NAPI and transmit stay off the rings
 * until they are drained.
 *
 * Return: 0, or a negative errno with the interface as it was and no session.
 */
int zcnic_session_establish(struct zcnic *zn)
{
	bool running = netif_running(zn->dev);
	int err;

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
	if (!zcnic_rings_drain(zn)) {
		netdev_err(zn->dev, "HELLO didn't return all chains\n");
		zcnic_request_reset(zn);
		err = -ENOTCONN;
		zn->live = false;
		goto resume;
	}
	zn->orphans_since = 0;
	zcnic_stats_fetch(zn);
	zcnic_events_clean(zn);
	zcnic_events_post(zn);
	err = zcnic_replay(zn);
	if (err) {
		/* a session without the whole configuration is not used */
		zcnic_session_failed(zn, "refused its configuration", err);
		zn->live = false;
	} else {
		zn->session_error = 0;
	}

resume:
	zcnic_pairs_napi_start(zn);
	if (running)
		netif_tx_wake_all_queues(zn->dev);
	zcnic_xsk_resume(zn);
	return err;
}

static bool zcnic_link_configured(struct zcnic *zn)
{
	unsigned int offset = offsetof(struct virtio_net_config, status);

	return virtio_cread16(zn->vdev, offset) & VIRTIO_NET_S_LINK_UP;
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
		/* a refused STATUS leaves link and session as they are */
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
		zcnic_xsk_resume(zn);
	} else if (!link && netif_carrier_ok(zn->dev)) {
		netdev_info(zn->dev, "link down\n");
		netif_carrier_off(zn->dev);
	}
	return zn->live;
}

static bool zcnic_orphans_overdue(const struct zcnic *zn)
{
	unsigned long deadline = zn->orphans_since + ZCNIC_ORPHAN_TIMEOUT;

	return zn->orphans_since && time_after(jiffies, deadline);
}

static bool zcnic_pair_broken(const struct zcnic_pair *pair)
{
	return virtqueue_is_broken(pair->rx.vq) ||
	       virtqueue_is_broken(pair->tx.vq);
}

/* NAPI would notice, but a broken ring raises no interrupt that runs it. */
static bool zcnic_ring_broken(const struct zcnic *zn)
{
	u16 i;

	if (!zn->present)
		return false;
	for (i = 0; i < zn->pair_count; i++)
		if (zcnic_pair_broken(&zn->pairs[i]))
			return true;
	return virtqueue_is_broken(zn->event_vq) ||
	       virtqueue_is_broken(zn->command_vq);
}

static void zcnic_check_tx_timeout(struct zcnic *zn)
{
	u16 i;

	for (i = 0; i < zn->channels; i++) {
		struct zcnic_pair *pair = &zn->pairs[i];

		if (!pair->tx.started || !zcnic_tx_timed_out(pair))
			continue;
		netdev_err(zn->dev, "transmit queue %u makes no progress\n", i);
		zcnic_request_reset(zn);
	}
}

static bool zcnic_reset_wanted(const struct zcnic *zn)
{
	return test_bit(ZCNIC_WORK_RESET, &zn->work) ||
	       zcnic_orphans_overdue(zn) || zcnic_ring_broken(zn);
}

/*
 * Look after a device that is present.
 *
 * Return: jiffies until the next time, 0: when something asks for it.
 */
static unsigned long zcnic_supervise(struct zcnic *zn)
{
	if (!zcnic_session_check(zn))
		return zn->linked || zn->orphans_since ? ZCNIC_RETRY_INTERVAL :
							 0;
	if (!netif_running(zn->dev))
		return 0;
	zcnic_stats_fetch(zn);
	zcnic_check_tx_timeout(zn);
	return zcnic_interrupts_missing(zn) ? ZCNIC_INTERRUPT_INTERVAL :
					      ZCNIC_STATS_INTERVAL;
}

/* Whether XDP's buffers outlived the last program, for want of memory */
static bool zcnic_xdp_outlived(const struct zcnic *zn)
{
	return zn->xdp && !zn->xdp_prog;
}

/* A backend may have fewer features and shorter frames than the last one. */
static void zcnic_adapt(struct zcnic *zn)
{
	struct net_device *dev = zn->dev;

	rtnl_lock();
	netdev_lock(dev);
	if (zcnic_xdp_outlived(zn))
		zcnic_pairs_leave_xdp(zn);
	zcnic_update_features(zn);
	if (dev->reg_state == NETREG_REGISTERED && dev->mtu > dev->max_mtu) {
		netdev_warn(dev, "the device takes an MTU of up to %u\n",
			    dev->max_mtu);
		netif_set_mtu(dev, dev->max_mtu);
	}
	netdev_unlock(dev);
	rtnl_unlock();
}

static void zcnic_service(struct work_struct *work)
{
	struct delayed_work *service = to_delayed_work(work);
	unsigned long delay = 0;
	struct zcnic *zn;
	u64 features;
	int err;

	zn = container_of(service, struct zcnic, service);
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
	if (zn->present)
		delay = zcnic_supervise(zn);
	if (test_bit(ZCNIC_WORK_RESET, &zn->work))
		delay = ZCNIC_RESET_INTERVAL;
unlock:
	netdev_unlock(zn->dev);

	if (features != zn->features || zn->dev->mtu > zn->dev->max_mtu ||
	    zcnic_xdp_outlived(zn))
		zcnic_adapt(zn);
	if (!delay && zcnic_xdp_outlived(zn))
		delay = ZCNIC_RETRY_INTERVAL;
	/* does nothing if a request has scheduled the work meanwhile */
	if (delay)
		queue_delayed_work(system_dfl_wq, service, delay);
}

/**
 * zcnic_session_init() - prepare the service work, which stays disabled
 * @zn: the device
 */
void zcnic_session_init(struct zcnic *zn)
{
	mutex_init(&zn->command_lock);
	init_completion(&zn->command_done);
	INIT_DELAYED_WORK(&zn->service, zcnic_service);
	disable_delayed_work(&zn->service);
}
