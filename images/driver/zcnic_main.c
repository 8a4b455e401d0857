// SPDX-License-Identifier: GPL-2.0-only
/*
 * zcnic: a virtio network device with more than virtio-net's features.
 *
 * To the virtual machine monitor it is an ordinary virtio-net device. This
 * driver takes those whose MAC address begins with 5a:43:4e, and leaves all
 * others to virtio_net.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pm.h>
#include <linux/rtnetlink.h>
#include <linux/swiotlb.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <net/netdev_lock.h>

#include "zcnic_command.h"
#include "zcnic_netdev.h"
#include "zcnic_queue.h"
#include "zcnic_session.h"

static bool zcnic_is_port(const u8 *mac)
{
	static const u8 prefix[] = ZCNIC_MAC_PREFIX;

	return !memcmp(mac, prefix, sizeof(prefix));
}

static void zcnic_read_mac(struct virtio_device *vdev, u8 *mac)
{
	virtio_cread_bytes(vdev, offsetof(struct virtio_net_config, mac), mac,
			   ETH_ALEN);
}

/* Speed and duplex as the user gave them to QEMU, or those of a fast cable */
static void zcnic_read_speed(struct zcnic *zn)
{
	u32 speed;
	u8 duplex;

	zn->speed = SPEED_100000;
	zn->duplex = DUPLEX_FULL;
	if (!virtio_has_feature(zn->vdev, VIRTIO_NET_F_SPEED_DUPLEX))
		return;
	virtio_cread_le(zn->vdev, struct virtio_net_config, speed, &speed);
	if (ethtool_validate_speed(speed) && speed != SPEED_UNKNOWN)
		zn->speed = speed;
	virtio_cread_le(zn->vdev, struct virtio_net_config, duplex, &duplex);
	if (ethtool_validate_duplex(duplex) && duplex != DUPLEX_UNKNOWN)
		zn->duplex = duplex;
}

static int zcnic_require(struct virtio_device *vdev, unsigned int feature,
			 const char *name, const char *hint)
{
	if (virtio_has_feature(vdev, feature))
		return 0;
	dev_err(&vdev->dev, "the device lacks %s: %s\n", name, hint);
	return -ENODEV;
}

static int zcnic_require_features(struct virtio_device *vdev)
{
	int err;

	err = zcnic_require(vdev, VIRTIO_F_VERSION_1, "VERSION_1",
			    "disable-legacy=on");
	if (err)
		return err;
	err = zcnic_require(vdev, VIRTIO_F_ACCESS_PLATFORM, "ACCESS_PLATFORM",
			    "iommu_platform=on");
	if (err)
		return err;
	err = zcnic_require(vdev, VIRTIO_NET_F_CTRL_VQ, "CTRL_VQ",
			    "ctrl_vq=on");
	if (err)
		return err;
	err = zcnic_require(vdev, VIRTIO_NET_F_MQ, "MQ",
			    "mq=on and queues=2 or more");
	if (err)
		return err;
	return zcnic_require(vdev, VIRTIO_NET_F_STATUS, "STATUS", "status=on");
}

static u16 zcnic_read_pairs(struct virtio_device *vdev)
{
	return virtio_cread16(vdev, offsetof(struct virtio_net_config,
					     max_virtqueue_pairs));
}

/*
 * A device is refused here, not in probe: after that QEMU ignores the features
 * of the driver that is tried next.
 */
static int zcnic_validate(struct virtio_device *vdev)
{
	u8 mac[ETH_ALEN];
	int err;

	if (!virtio_has_feature(vdev, VIRTIO_NET_F_MAC))
		return -ENODEV;
	zcnic_read_mac(vdev, mac);
	if (!zcnic_is_port(mac))
		return -ENODEV;

	if (!dev_is_pci(vdev->dev.parent)) {
		dev_err(&vdev->dev,
			"not a PCI device: interrupts per ring need MSI-X\n");
		return -ENODEV;
	}
	err = zcnic_require_features(vdev);
	if (err)
		return err;
	if (zcnic_read_pairs(vdev) < 2) {
		dev_err(&vdev->dev,
			"one queue pair is for commands: queues=2 or more\n");
		return -ENODEV;
	}

	/* virtio offers transport features itself; the backend lacks these */
	__virtio_clear_bit(vdev, VIRTIO_F_RING_RESET);
	__virtio_clear_bit(vdev, VIRTIO_F_RING_PACKED);
	__virtio_clear_bit(vdev, VIRTIO_F_IN_ORDER);
	return 0;
}

static void zcnic_free(struct zcnic *zn)
{
	u16 i;

	zcnic_hold_stop(zn);
	for (i = 0; i < zn->pair_count; i++) {
		zcnic_rx_slots_free(&zn->pairs[i]);
		zcnic_tx_slots_free(&zn->pairs[i]);
	}
	zcnic_rules_free(zn);
	kvfree(zn->pairs);
	kfree(zn->vq_names);
	kfree(zn->events);
	kfree(zn->addresses);
	kfree(zn->queue_stats);
	kvfree(zn->affinity);
	kfree(zn->queue_fetched);
	free_netdev(zn->dev);
}

static void zcnic_device_remove(struct zcnic *zn)
{
	if (zn->present)
		zcnic_device_stop(zn);
	else
		virtio_reset_device(zn->vdev);
	zcnic_free(zn);
}

static int zcnic_pairs_init(struct zcnic *zn)
{
	int err;
	u16 i;

	for (i = 0; i < zn->pair_count; i++) {
		struct zcnic_pair *pair = &zn->pairs[i];

		spin_lock_init(&pair->callback_lock);
		timer_setup(&pair->refill_timer, zcnic_refill_timer, 0);
		u64_stats_init(&pair->rx.stats.syncp);
		u64_stats_init(&pair->tx.stats.syncp);
		err = zcnic_rx_slots_alloc(pair);
		if (err)
			return err;
		err = zcnic_tx_slots_alloc(pair);
		if (err)
			return err;
	}
	return 0;
}

/* The virtqueues' names, by which interrupts are listed */
static void zcnic_name_vqs(struct zcnic *zn)
{
	u16 command = zn->device_pairs - 1;
	u16 i;

	for (i = 0; i < command; i++) {
		snprintf(zn->vq_names[2 * i], sizeof(*zn->vq_names),
			 "rx%u", i);
		snprintf(zn->vq_names[2 * i + 1], sizeof(*zn->vq_names),
			 "tx%u", i);
	}
	strscpy(zn->vq_names[2 * command], "events");
	strscpy(zn->vq_names[2 * command + 1], "commands");
}

static struct zcnic *zcnic_alloc(struct virtio_device *vdev)
{
	u16 device_pairs = zcnic_read_pairs(vdev);
	struct net_device *dev;
	u8 mac[ETH_ALEN];
	struct zcnic *zn;
	u16 pairs;
	u16 i;

	pairs = min(device_pairs - 1, ZCNIC_MAX_PAIRS - 1);
	dev = alloc_etherdev_mqs(sizeof(*zn), pairs, pairs);
	if (!dev)
		return NULL;
	SET_NETDEV_DEV(dev, &vdev->dev);
	zcnic_read_mac(vdev, mac);
	eth_hw_addr_set(dev, mac);

	zn = netdev_priv(dev);
	zn->dev = dev;
	zn->vdev = vdev;
	zn->device_pairs = device_pairs;
	zn->pairs = kvcalloc(pairs, sizeof(*zn->pairs), GFP_KERNEL);
	zn->vq_names = kcalloc(2 * device_pairs, sizeof(*zn->vq_names),
			       GFP_KERNEL);
	zn->events = kcalloc(ZCNIC_EVENTS, sizeof(*zn->events), GFP_KERNEL);
	zn->queue_stats = kcalloc(pairs, sizeof(*zn->queue_stats), GFP_KERNEL);
	zn->affinity = kvcalloc(ZCNIC_VECTORS(pairs), sizeof(*zn->affinity),
				GFP_KERNEL);
	zn->queue_fetched = kcalloc(pairs, sizeof(*zn->queue_fetched),
				    GFP_KERNEL);
	if (!zn->pairs || !zn->vq_names || !zn->events || !zn->queue_stats ||
	    !zn->affinity || !zn->queue_fetched) {
		zcnic_free(zn);
		return NULL;
	}
	for (i = 0; i < pairs; i++) {
		zn->pairs[i].zn = zn;
		zn->pairs[i].index = i;
	}
	zcnic_name_vqs(zn);
	return zn;
}

/* Their memory is mapped once, so data can't be bounced to and from it. */
static void zcnic_report_bouncing(const struct zcnic *zn)
{
	if (is_swiotlb_force_bounce(zn->dma_dev))
		netdev_notice(zn->dev,
			      "swiotlb bounces all DMA: memory providers can't be bound\n");
}

static int zcnic_probe(struct virtio_device *vdev)
{
	struct zcnic *zn;
	int err;

	zn = zcnic_alloc(vdev);
	if (!zn)
		return -ENOMEM;
	vdev->priv = zn;
	zcnic_session_init(zn);
	mutex_init(&zn->clock_lock);

	netdev_lock(zn->dev);
	err = zcnic_device_start(zn);
	netdev_unlock(zn->dev);
	if (!err)
		err = zcnic_pairs_init(zn);
	if (err)
		goto err_free;
	zcnic_netdev_setup(zn);
	zcnic_read_speed(zn);
	zcnic_rss_init(zn);
	zcnic_set_hw_features(zn);

	/* limits and features; without a backend a later session has them */
	netdev_lock(zn->dev);
	err = zcnic_session_establish(zn);
	netdev_unlock(zn->dev);
	if (err)
		dev_info(&vdev->dev, "no session yet: %d\n", err);
	zcnic_set_hw_features(zn);

	zcnic_ptp_register(zn);
	zcnic_debugfs_add(zn);
	netif_carrier_off(zn->dev);
	err = register_netdev(zn->dev);
	if (err)
		goto err_ptp;
	zcnic_set_xps(zn);
	zcnic_report_bouncing(zn);
	enable_delayed_work(&zn->service);
	zcnic_service_schedule(zn);
	return 0;

err_ptp:
	zcnic_debugfs_remove(zn);
	zcnic_ptp_unregister(zn);
err_free:
	zcnic_device_remove(zn);
	return err;
}

static void zcnic_remove(struct virtio_device *vdev)
{
	struct zcnic *zn = vdev->priv;

	zcnic_debugfs_remove(zn);
	unregister_netdev(zn->dev);
	disable_delayed_work_sync(&zn->service);
	zcnic_ptp_unregister(zn);
	zcnic_device_remove(zn);
}

/*
 * virtio breaks the rings before it resets the device, and the service work
 * would bring a device with broken rings back.
 */
static void zcnic_shutdown(struct virtio_device *vdev)
{
	struct zcnic *zn = vdev->priv;

	disable_delayed_work_sync(&zn->service);
	virtio_device_shutdown(vdev);
}

static void zcnic_config_changed(struct virtio_device *vdev)
{
	zcnic_service_schedule(vdev->priv);
}

static const struct virtio_device_id zcnic_ids[] = {
	{ VIRTIO_ID_NET, VIRTIO_DEV_ANY_ID },
	{ }
};
MODULE_DEVICE_TABLE(virtio, zcnic_ids);

static const unsigned int zcnic_virtio_features[] = {
	VIRTIO_NET_F_MAC,
	VIRTIO_NET_F_STATUS,
	VIRTIO_NET_F_CTRL_VQ,
	VIRTIO_NET_F_MQ,
	VIRTIO_NET_F_MRG_RXBUF,
	VIRTIO_NET_F_SPEED_DUPLEX,
};

static struct virtio_driver zcnic_driver = {
	.driver.name		= KBUILD_MODNAME,
	.id_table		= zcnic_ids,
	.feature_table		= zcnic_virtio_features,
	.feature_table_size	= ARRAY_SIZE(zcnic_virtio_features),
	.validate		= zcnic_validate,
	.probe			= zcnic_probe,
	.remove			= zcnic_remove,
	.shutdown		= zcnic_shutdown,
	.config_changed		= zcnic_config_changed,
	.reset_prepare		= zcnic_reset_prepare,
	.reset_done		= zcnic_reset_done,
	.freeze			= pm_sleep_ptr(zcnic_freeze),
	.restore		= pm_sleep_ptr(zcnic_restore),
};

/*
 * A driver that was there first keeps its devices, without a word: tell the
 * user how to move a port to this driver.
 */
static void __init zcnic_report_taken_ports(void)
{
	struct net_device *dev;

	rtnl_lock();
	for_each_netdev(&init_net, dev) {
		struct device *parent = dev->dev.parent;
		const char *driver;

		if (!parent || parent->bus != zcnic_driver.driver.bus ||
		    parent->driver == &zcnic_driver.driver ||
		    !zcnic_is_port(dev->perm_addr))
			continue;
		driver = dev_driver_string(parent);
		pr_notice("%s is a zcnic port that %s drives; to take it, write %s to /sys/bus/virtio/drivers/%s/unbind and then to /sys/bus/virtio/drivers/%s/bind\n",
			  netdev_name(dev), driver, dev_name(parent), driver,
			  KBUILD_MODNAME);
	}
	rtnl_unlock();
}

static int __init zcnic_init(void)
{
	int err;

	zcnic_debugfs_init();
	err = register_virtio_driver(&zcnic_driver);
	if (err) {
		zcnic_debugfs_exit();
		return err;
	}
	zcnic_report_taken_ports();
	return 0;
}
module_init(zcnic_init);

static void __exit zcnic_exit(void)
{
	unregister_virtio_driver(&zcnic_driver);
	zcnic_debugfs_exit();
}
module_exit(zcnic_exit);

MODULE_DESCRIPTION("zcnic network device");
MODULE_LICENSE("GPL");
