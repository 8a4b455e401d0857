// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device's clock, and which frames are stamped with it.
 *
 * The ports of a backend share one clock, so no interface sets it or changes
 * its pace. An interface's clock is the device's plus an offset, which can be
 * set.
 */
#include <linux/ptp_clock_kernel.h>

#include "zcnic_command.h"
#include "zcnic_netdev.h"

static struct zcnic *zcnic_of(struct ptp_clock_info *info)
{
	return container_of(info, struct zcnic, ptp_info);
}

static int zcnic_ptp_gettimex(struct ptp_clock_info *info,
			      struct timespec64 *time,
			      struct ptp_system_timestamp *system)
{
	struct zcnic_clock_response response;
	struct zcnic *zn = zcnic_of(info);
	struct zcnic_request request;
	ktime_t now;
	int err;

	ptp_read_system_prets(system);
	err = zcnic_command(zn, ZCNIC_CMD_CLOCK, &request, sizeof(request),
			    &response, sizeof(response));
	ptp_read_system_postts(system);
	if (err)
		return err;
	now = zcnic_time(zn, response.nanoseconds);
	*time = ktime_to_timespec64(now);
	return 0;
}

static int zcnic_ptp_adjtime(struct ptp_clock_info *info, s64 delta)
{
	atomic64_add(delta, &zcnic_of(info)->clock_offset);
	return 0;
}

static int zcnic_ptp_settime(struct ptp_clock_info *info,
			     const struct timespec64 *time)
{
	struct timespec64 now;
	s64 delta;
	int err;

	err = zcnic_ptp_gettimex(info, &now, NULL);
	if (err)
		return err;
	delta = timespec64_to_ns(time) - timespec64_to_ns(&now);
	return zcnic_ptp_adjtime(info, delta);
}

static int zcnic_ptp_adjfine(struct ptp_clock_info *info, long scaled_ppm)
{
	return scaled_ppm ? -EOPNOTSUPP : 0;
}

/**
 * zcnic_ptp_register() - make the clock a PTP clock, if the device has one
 * @zn: the device
 */
void zcnic_ptp_register(struct zcnic *zn)
{
	zn->ptp_info = (struct ptp_clock_info) {
		.owner		= THIS_MODULE,
		.name		= KBUILD_MODNAME,
		.gettimex64	= zcnic_ptp_gettimex,
		.settime64	= zcnic_ptp_settime,
		.adjtime	= zcnic_ptp_adjtime,
		.adjfine	= zcnic_ptp_adjfine,
	};
	if (!(zn->features & BIT_ULL(ZCNIC_F_TIMESTAMP)))
		return;
	zn->ptp = ptp_clock_register(&zn->ptp_info, &zn->vdev->dev);
	if (IS_ERR(zn->ptp)) {
		dev_warn(&zn->vdev->dev, "no PTP clock: %ld\n",
			 PTR_ERR(zn->ptp));
		zn->ptp = NULL;
	}
}

/**
 * zcnic_ptp_unregister() - remove the PTP clock, if there is one
 * @zn: the device
 */
void zcnic_ptp_unregister(struct zcnic *zn)
{
	if (zn->ptp)
		ptp_clock_unregister(zn->ptp);
	zn->ptp = NULL;
}

int zcnic_get_ts_info(struct net_device *dev,
		      struct kernel_ethtool_ts_info *info)
{
	struct zcnic *zn = netdev_priv(dev);

	info->so_timestamping = SOF_TIMESTAMPING_TX_SOFTWARE;
	if (!(zn->features & BIT_ULL(ZCNIC_F_TIMESTAMP)))
		return 0;
	info->so_timestamping |= SOF_TIMESTAMPING_TX_HARDWARE |
				 SOF_TIMESTAMPING_RX_HARDWARE |
				 SOF_TIMESTAMPING_RAW_HARDWARE;
	info->tx_types = BIT(HWTSTAMP_TX_OFF) | BIT(HWTSTAMP_TX_ON);
	info->rx_filters = BIT(HWTSTAMP_FILTER_NONE) | BIT(HWTSTAMP_FILTER_ALL);
	if (zn->ptp)
		info->phc_index = ptp_clock_index(zn->ptp);
	return 0;
}

int zcnic_hwtstamp_get(struct net_device *dev,
		       struct kernel_hwtstamp_config *config)
{
	struct zcnic *zn = netdev_priv(dev);

	config->tx_type = zn->tx_type;
	config->rx_filter = zn->rx_filter;
	return 0;
}

int zcnic_hwtstamp_set(struct net_device *dev,
		       struct kernel_hwtstamp_config *config,
		       struct netlink_ext_ack *extack)
{
	struct zcnic *zn = netdev_priv(dev);
	int was = zn->rx_filter;
	int err;

	if (!(zn->features & BIT_ULL(ZCNIC_F_TIMESTAMP)))
		return -EOPNOTSUPP;
	if (config->tx_type != HWTSTAMP_TX_OFF &&
	    config->tx_type != HWTSTAMP_TX_ON)
		return -ERANGE;
	/* the device stamps all received frames or none */
	if (config->rx_filter != HWTSTAMP_FILTER_NONE)
		config->rx_filter = HWTSTAMP_FILTER_ALL;
	zn->rx_filter = config->rx_filter;
	err = zcnic_send_offloads(zn, dev->features);
	if (err && !zcnic_disconnected(err)) {
		zn->rx_filter = was;
		return err;
	}
	WRITE_ONCE(zn->tx_type, config->tx_type);
	return 0;
}
