// SPDX-License-Identifier: GPL-2.0-only
#include <linux/virtio_config.h>
#include <net/netdev_lock.h>

#include "zcnic.h"

/* A device that can't be trusted for longer than that is not worth more. */
#define ZCNIC_RESET_PAUSE		HZ

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
