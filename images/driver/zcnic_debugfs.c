// SPDX-License-Identifier: GPL-2.0-only
/* /sys/kernel/debug/zcnic/NAME: switches for measurements, one per device. */
#include <linux/debugfs.h>
#include <net/netdev_lock.h>

#include "zcnic_netdev.h"
#include "zcnic_queue.h"

static struct dentry *zcnic_debugfs_root;

static int zcnic_no_recycle_get(void *data, u64 *value)
{
	struct zcnic *zn = data;

	netdev_lock(zn->dev);
	*value = !!zn->pairs[0].rx.held;
	netdev_unlock(zn->dev);
	return 0;
}

static int zcnic_no_recycle_set(void *data, u64 value)
{
	struct zcnic *zn = data;
	int err = 0;

	netdev_lock(zn->dev);
	if (!!value == !!zn->pairs[0].rx.held)
		goto unlock;
	zcnic_pairs_napi_stop(zn);
	if (value)
		err = zcnic_hold_start(zn);
	else
		zcnic_hold_stop(zn);
	zcnic_pairs_napi_start(zn);
unlock:
	netdev_unlock(zn->dev);
	return err;
}

DEFINE_DEBUGFS_ATTRIBUTE(zcnic_no_recycle_fops, zcnic_no_recycle_get,
			 zcnic_no_recycle_set, "%llu\n");

/**
 * zcnic_debugfs_add() - make the files of a device
 * @zn: the device, its pairs initialised
 */
void zcnic_debugfs_add(struct zcnic *zn)
{
	zn->debugfs = debugfs_create_dir(dev_name(&zn->vdev->dev),
					 zcnic_debugfs_root);
	debugfs_create_file_unsafe("no_recycle", 0600, zn->debugfs, zn,
				   &zcnic_no_recycle_fops);
}

/**
 * zcnic_debugfs_remove() - remove the files of a device
 * @zn: the device
 *
 * Waits for those who read and write them.
 */
void zcnic_debugfs_remove(struct zcnic *zn)
{
	debugfs_remove(zn->debugfs);
}

/**
 * zcnic_debugfs_init() - make the directory of all devices
 */
void zcnic_debugfs_init(void)
{
	zcnic_debugfs_root = debugfs_create_dir(KBUILD_MODNAME, NULL);
}

/**
 * zcnic_debugfs_exit() - remove it
 */
void zcnic_debugfs_exit(void)
{
	debugfs_remove(zcnic_debugfs_root);
}
