// SPDX-License-Identifier: GPL-2.0-only
/*
 * zcnic: a virtio network device whose backend speaks more than virtio-net.
 *
 * To the virtual machine monitor it is an ordinary virtio-net device, and only its MAC address tells
 * that it is ours: this driver takes those whose address starts with 5a:43:4e and leaves all others to
 * virtio_net.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <net/netdev_lock.h>

#include "zcnic.h"

static void zcnic_read_mac(struct virtio_device *vdev, u8 *mac)
{
	virtio_cread_bytes(vdev, offsetof(struct virtio_net_config, mac), mac,
			   ETH_ALEN);
}

static int zcnic_require(struct virtio_device *vdev, unsigned int feature,
			 const char *name, const char *hint)
{
	if (virtio_has_feature(vdev, feature))
		return 0;
	dev_err(&vdev->dev, "the device lacks %s: %s\n", name, hint);
	return -ENODEV;
}

/*
 * Refusing has to happen here: after a refusal in .probe QEMU ignores the features of the driver that
 * is tried next.
 */
static int zcnic_validate(struct virtio_device *vdev)
{
	static const u8 prefix[] = ZCNIC_MAC_PREFIX;
	u8 mac[ETH_ALEN];
	u16 pairs;

	if (!virtio_has_feature(vdev, VIRTIO_NET_F_MAC))
		return -ENODEV;
	zcnic_read_mac(vdev, mac);
	if (memcmp(mac, prefix, sizeof(prefix)))
		return -ENODEV;

	if (!dev_is_pci(vdev->dev.parent)) {
		dev_err(&vdev->dev,
			"not a PCI device: interrupts per ring need MSI-X\n");
		return -ENODEV;
	}
	if (zcnic_require(vdev, VIRTIO_F_VERSION_1, "VERSION_1",
			  "disable-legacy=on") ||
	    zcnic_require(vdev, VIRTIO_F_ACCESS_PLATFORM, "ACCESS_PLATFORM",
			  "iommu_platform=on") ||
	    zcnic_require(vdev, VIRTIO_NET_F_CTRL_VQ, "CTRL_VQ",
			  "ctrl_vq=on") ||
	    zcnic_require(vdev, VIRTIO_NET_F_MQ, "MQ",
			  "mq=on and queues=2 or more") ||
	    zcnic_require(vdev, VIRTIO_NET_F_STATUS, "STATUS", "status=on"))
		return -ENODEV;
	pairs = virtio_cread16(vdev, offsetof(struct virtio_net_config,
					      max_virtqueue_pairs));
	if (pairs < 2) {
		dev_err(&vdev->dev,
			"one queue pair is for commands: queues=2 or more\n");
		return -ENODEV;
	}

	/* virtio preserves transport features; these the backend doesn't serve */
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
	u16 i;
	int err;

	for (i = 0; i < zn->pair_count; i++) {
		struct zcnic_pair *pair = &zn->pairs[i];

		spin_lock_init(&pair->callback_lock);
		timer_setup(&pair->refill_timer, zcnic_refill_timer, 0);
		u64_stats_init(&pair->rx.stats.syncp);
		u64_stats_init(&pair->tx.stats.syncp);
		err = zcnic_rx_slots_alloc(pair) ?: zcnic_tx_slots_alloc(pair);
		if (err)
			return err;
	}
	return 0;
}

static struct zcnic *zcnic_alloc(struct virtio_device *vdev)
{
	u16 device_pairs = virtio_cread16(
		vdev, offsetof(struct virtio_net_config, max_virtqueue_pairs));
	u16 pairs = min(device_pairs - 1, ZCNIC_MAX_PAIRS - 1);
	struct net_device *dev;
	u8 mac[ETH_ALEN];
	struct zcnic *zn;
	u16 i;

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
	zn->vq_names =
		kcalloc(2 * device_pairs, sizeof(*zn->vq_names), GFP_KERNEL);
	zn->events = kcalloc(ZCNIC_EVENTS, sizeof(*zn->events), GFP_KERNEL);
	zn->queue_stats = kcalloc(pairs, sizeof(*zn->queue_stats), GFP_KERNEL);
	if (!zn->pairs || !zn->vq_names || !zn->events || !zn->queue_stats) {
		zcnic_free(zn);
		return NULL;
	}
	for (i = 0; i < pairs; i++) {
		zn->pairs[i].zn = zn;
		zn->pairs[i].index = i;
	}
	for (i = 0; i < device_pairs; i++) {
		bool data = i < device_pairs - 1;

		if (data) {
			snprintf(zn->vq_names[2 * i], sizeof(*zn->vq_names),
				 "rx%u", i);
			snprintf(zn->vq_names[2 * i + 1], sizeof(*zn->vq_names),
				 "tx%u", i);
		} else {
			strscpy(zn->vq_names[2 * i], "events");
			strscpy(zn->vq_names[2 * i + 1], "commands");
		}
	}
	return zn;
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

	netdev_lock(zn->dev);
	err = zcnic_device_start(zn);
	netdev_unlock(zn->dev);
	if (!err)
		err = zcnic_pairs_init(zn);
	if (err)
		goto err_free;
	zcnic_netdev_setup(zn);
	zcnic_rss_init(zn);
	zcnic_set_hw_features(zn);

	/* limits and features; without a backend we register all the same and learn them later */
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

/* Virtio breaks the rings before it resets the device, and broken rings must not make us revive it. */
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
};

static int __init zcnic_init(void)
{
	int err;

	zcnic_debugfs_init();
	err = register_virtio_driver(&zcnic_driver);
	if (err)
		zcnic_debugfs_exit();
	return err;
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
