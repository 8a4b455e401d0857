/* SPDX-License-Identifier: GPL-2.0-only */
/* Which queue a frame goes to: RSS contexts and flow rules. */
#ifndef ZCNIC_STEERING_H
#define ZCNIC_STEERING_H

#include <linux/ethtool.h>

#include "zcnic_abi.h"

struct zcnic;

#define ZCNIC_MAX_RSS_CONTEXTS		64
#define ZCNIC_MAX_RSS_TABLE		512
#define ZCNIC_MAX_RULES			1024

/* An RSS context as it was set last */
struct zcnic_rss {
	bool exists;
	u8 symmetric;		/* enum zcnic_rss_symmetric */
	u16 fields[ZCNIC_FLOW_TYPES];
	u8 key[ZCNIC_RSS_KEY_SIZE];
	u16 table[ZCNIC_MAX_RSS_TABLE];
};

/* A rule as the user gave it and as the device gets it */
struct zcnic_flow_rule {
	struct ethtool_rx_flow_spec spec;
	u32 rss_context;
	struct zcnic_rule rule;
};

/* zcnic_rss.c */
void zcnic_rss_init(struct zcnic *zn);
int zcnic_rss_can_resize(struct zcnic *zn, u16 channels);
int zcnic_rss_set_channels(struct zcnic *zn, u16 channels);
int zcnic_rss_replay(struct zcnic *zn);
u16 zcnic_rss_max_queue(struct zcnic *zn, u32 context);
u32 zcnic_rss_table_length(struct zcnic *zn, u16 channels);
u32 zcnic_get_rxfh_key_size(struct net_device *dev);
u32 zcnic_get_rxfh_indir_size(struct net_device *dev);
int zcnic_get_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh);
int zcnic_set_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh,
		   struct netlink_ext_ack *extack);
int zcnic_create_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx,
			      const struct ethtool_rxfh_param *rxfh,
			      struct netlink_ext_ack *extack);
int zcnic_modify_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx,
			      const struct ethtool_rxfh_param *rxfh,
			      struct netlink_ext_ack *extack);
int zcnic_remove_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx, u32 context,
			      struct netlink_ext_ack *extack);
int zcnic_get_rxfh_fields(struct net_device *dev,
			  struct ethtool_rxfh_fields *fields);
int zcnic_set_rxfh_fields(struct net_device *dev,
			  const struct ethtool_rxfh_fields *fields,
			  struct netlink_ext_ack *extack);

/* zcnic_rules.c */
int zcnic_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd,
		    u32 *locations);
int zcnic_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd);
int zcnic_rules_flush(struct zcnic *zn);
int zcnic_rules_replay(struct zcnic *zn);
bool zcnic_rules_fit(struct zcnic *zn, u16 channels);
void zcnic_rules_free(struct zcnic *zn);

#endif /* ZCNIC_STEERING_H */
