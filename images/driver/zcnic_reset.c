// SPDX-License-Identifier: GPL-2.0-only
/*
 * Taking the device out of use and back into it.
 *
 * The virtio core resets a device around two callbacks, of which each takes the
 * instance lock; functions with the lock held do the work. Between the two the
 * device is absent, as it is after a failed reset: setters store, queues note
 * what is wanted, and NAPI finds nothing to do.
 */
#include <linux/device.h>
#include <linux/virtio_config.h>
#include <net/netdev_lock.h>

#include "zcnic_command.h"
#include "zcnic_queue.h"
#include "zcnic_session.h"

/* Between two resets that the driver decides on */
#define ZCNIC_RESET_PAUSE		HZ

/**
 * zcnic_device_start() - find the rings and set the device going
 * @zn: the device; the caller holds the instance lock
 *
 * Return: 0 or a negative errno.
 */
int zcnic_device_start(struct zcnic *zn)
{
	int err;
	u16 i;

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
 * zcnic_device_stop() - reset the device, empty its rings and give them back
 * @zn: the device, present; no queue is polled or sent to
 */
void zcnic_device_stop(struct zcnic *zn)
{
	u16 i;

	/* a command that is under way ends first */
	mutex_lock(&zn->command_lock);
	zn->present = false;
	zn->live = false;
	mutex_unlock(&zn->command_lock);

	virtio_reset_device(zn->vdev);
	for (i = 0; i < zn->pair_count; i++) {
		zcnic_rx_detach(&zn->pairs[i]);
		zcnic_tx_detach(&zn->pairs[i]);
	}
	memset(zn->events_posted, 0, sizeof(zn->events_posted));
	zn->orphans_since = 0;
	zcnic_vqs_del(zn);
}

/**
 * zcnic_device_detach() - make the device absent under a live interface
 * @zn: the device; the caller holds the instance lock
 *
 * All buffers return to the driver. Memory providers stay bound: their pools
 * wait for new chains. The device comes back by zcnic_request_reset().
 */
void zcnic_device_detach(struct zcnic *zn)
{
	netif_carrier_off(zn->dev);
	zcnic_pairs_napi_stop(zn);
	if (netif_running(zn->dev))
		netif_tx_disable(zn->dev);
	if (zn->present)
		zcnic_device_stop(zn);
	/* only now: until here NAPI asked for it again and again */
	clear_bit(ZCNIC_WORK_RESET, &zn->work);
	zcnic_pairs_napi_start(zn);
}

/**
 * zcnic_reset_prepare() - zcnic_device_detach(), called by the virtio core
 * @vdev: the device
 *
 * Return: 0.
 */
int zcnic_reset_prepare(struct virtio_device *vdev)
{
	struct zcnic *zn = vdev->priv;

	netdev_lock(zn->dev);
	zcnic_device_detach(zn);
	netdev_unlock(zn->dev);
	return 0;
}

/**
 * zcnic_reset_done() - zcnic_device_start(), called by the virtio core
 * @vdev: the device, its features negotiated
 *
 * Return: 0, also without a backend, or a negative errno.
 */
int zcnic_reset_done(struct virtio_device *vdev)
{
	struct zcnic *zn = vdev->priv;
	int err;

	netdev_lock(zn->dev);
	err = zcnic_device_start(zn);
	netdev_unlock(zn->dev);
	if (!err)
		zcnic_service_schedule(zn);
	return err;
}

/**
 * zcnic_freeze() - make the device absent before the system sleeps
 * @vdev: the device; the PM core has locked the PCI device
 *
 * The interface, its memory providers and its AF_XDP sockets stay, as during a
 * reset. The service work would talk to a device that is off. Its own resets
 * try the lock only, so it ends.
 *
 * Return: 0.
 */
int zcnic_freeze(struct virtio_device *vdev)
{
	struct zcnic *zn = vdev->priv;

	disable_delayed_work_sync(&zn->service);
	return zcnic_reset_prepare(vdev);
}

/**
 * zcnic_restore() - take the device back into use after the system slept
 * @vdev: the device, its features negotiated
 *
 * Return: 0, or a negative errno; the service work then resets the device.
 */
int zcnic_restore(struct virtio_device *vdev)
{
	struct zcnic *zn = vdev->priv;
	int err;

	err = zcnic_reset_done(vdev);
	if (err)
		set_bit(ZCNIC_WORK_RESET, &zn->work);
	enable_delayed_work(&zn->service);
	zcnic_service_schedule(zn);
	return err;
}

/**
 * zcnic_reset() - reset the device and take it back into use
 * @zn: the device; called by the service work, without the instance lock
 *
 * Afterwards nothing is in any ring. The PCI device is locked meanwhile, as the
 * PCI core does around a function level reset, so that only one of the two
 * calls the callbacks. Only tried: the lock's owner may be about to wait for
 * the service work.
 *
 * Return: 0; -EAGAIN, with nothing changed, if the PCI device is locked.
 */
int zcnic_reset(struct zcnic *zn)
{
	struct device *parent = zn->vdev->dev.parent;
	int err;

	if (!device_trylock(parent))
		return -EAGAIN;
	netdev_warn(zn->dev, "resetting the device\n");
	zn->resets++;
	zn->next_reset = jiffies + ZCNIC_RESET_PAUSE;
	if (!zn->next_reset)
		zn->next_reset = 1;
	err = virtio_device_reset_prepare(zn->vdev);
	if (!err)
		err = virtio_device_reset_done(zn->vdev);
	if (err) {
		netdev_err(zn->dev,
			   "the device failed to come back from a reset: %d\n",
			   err);
		set_bit(ZCNIC_WORK_RESET, &zn->work);
	}
	device_unlock(parent);
	return 0;
}
