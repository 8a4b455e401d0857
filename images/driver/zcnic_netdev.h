/* SPDX-License-Identifier: GPL-2.0-only */
/* The interface: operations, channels, clock and debugfs. */
#ifndef ZCNIC_NETDEV_H
#define ZCNIC_NETDEV_H

#include <linux/ethtool.h>
#include <linux/net_tstamp.h>

#include "zcnic.h"

/* zcnic_netdev.c */
void zcnic_netdev_setup(struct zcnic *zn);
void zcnic_set_hw_features(struct zcnic *zn);

/* zcnic_channels.c */
void zcnic_set_xps(struct zcnic *zn);
void zcnic_get_channels(struct net_device *dev,
			struct ethtool_channels *channels);
int zcnic_set_channels(struct net_device *dev,
		       struct ethtool_channels *channels);

/* zcnic_ethtool.c */
extern const struct ethtool_ops zcnic_ethtool_ops;

/* zcnic_ptp.c */
void zcnic_ptp_register(struct zcnic *zn);
void zcnic_ptp_unregister(struct zcnic *zn);
int zcnic_clock_replay(struct zcnic *zn);
int zcnic_get_ts_info(struct net_device *dev,
		      struct kernel_ethtool_ts_info *info);
int zcnic_hwtstamp_get(struct net_device *dev,
		       struct kernel_hwtstamp_config *config);
int zcnic_hwtstamp_set(struct net_device *dev,
		       struct kernel_hwtstamp_config *config,
		       struct netlink_ext_ack *extack);

/* zcnic_debugfs.c */
void zcnic_debugfs_init(void);
void zcnic_debugfs_exit(void);
void zcnic_debugfs_add(struct zcnic *zn);
void zcnic_debugfs_remove(struct zcnic *zn);

#endif /* ZCNIC_NETDEV_H */
