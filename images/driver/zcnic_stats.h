/* SPDX-License-Identifier: GPL-2.0-only */
/* Statistics of the interface, its queues, the driver and the device. */
#ifndef ZCNIC_STATS_H
#define ZCNIC_STATS_H

#include <linux/ethtool.h>
#include <net/netdev_queues.h>

#include "zcnic.h"

extern const struct netdev_stat_ops zcnic_stat_ops;
int zcnic_stats_fetch(struct zcnic *zn);
void zcnic_get_stats64(struct net_device *dev,
		       struct rtnl_link_stats64 *stats);
int zcnic_get_sset_count(struct net_device *dev, int set);
void zcnic_get_strings(struct net_device *dev, u32 set, u8 *data);
void zcnic_get_ethtool_stats(struct net_device *dev,
			     struct ethtool_stats *stats, u64 *data);
void zcnic_get_ts_stats(struct net_device *dev, struct ethtool_ts_stats *stats);

#endif /* ZCNIC_STATS_H */
