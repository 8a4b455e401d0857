// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive side scaling: context 0 and the others. A setting is checked, sent if
 * there is a session, and kept unless the device refuses it. Each new session
 * gets all contexts. No setting resets anything.
 */
#include <net/netdev_lock.h>

#include "zcnic_command.h"

#define ZCNIC_FIELDS_IP		(ZCNIC_FIELD_IP_SRC | ZCNIC_FIELD_IP_DST)
#define ZCNIC_FIELDS_L4 \
	(ZCNIC_FIELDS_IP | ZCNIC_FIELD_L4_SRC | ZCNIC_FIELD_L4_DST)

static const u16 zcnic_default_fields[ZCNIC_FLOW_TYPES] = {
	[ZCNIC_FLOW_IPV4] = ZCNIC_FIELDS_IP,
	[ZCNIC_FLOW_TCP4] = ZCNIC_FIELDS_L4,
	[ZCNIC_FLOW_UDP4] = ZCNIC_FIELDS_L4,
	[ZCNIC_FLOW_IPV6] = ZCNIC_FIELDS_IP,
	[ZCNIC_FLOW_TCP6] = ZCNIC_FIELDS_L4,
	[ZCNIC_FLOW_UDP6] = ZCNIC_FIELDS_L4,
};

/**
 * zcnic_rss_table_length() - length of the tables for a number of channels
 * @zn: the device
 * @channels: the number
 *
 * A power of two, because the device indexes by the low bits of the hash. At
 * least four entries per channel, so that shares differ by a quarter at most.
 *
 * Return: the length in entries.
 */
u32 zcnic_rss_table_length(struct zcnic *zn, u16 channels)
{
	return min_t(u32, roundup_pow_of_two(max(8, 4 * channels)),
		     zn->max_rss_table);
}

static void zcnic_rss_set_default(struct zcnic_rss *rss, u32 length,
				  u16 channels)
{
	u32 i;

	for (i = 0; i < length; i++)
		rss->table[i] = ethtool_rxfh_indir_default(i, channels);
}

/**
 * zcnic_rss_init() - set the default configuration
 * @zn: the device
 */
void zcnic_rss_init(struct zcnic *zn)
{
	struct zcnic_rss *rss = &zn->rss[0];

	zn->rss_table_length = zcnic_rss_table_length(zn, zn->channels);
	rss->exists = true;
	memcpy(rss->fields, zcnic_default_fields, sizeof(rss->fields));
	netdev_rss_key_fill(rss->key, sizeof(rss->key));
	zcnic_rss_set_default(rss, zn->rss_table_length, zn->channels);
}

static int zcnic_rss_send(struct zcnic *zn, u32 context,
			  const struct zcnic_rss *rss)
{
	struct zcnic_rss_set *request;
	size_t size;
	int err;
	u32 i;

	size = struct_size(request, table, zn->rss_table_length);
	request = kzalloc(size, GFP_KERNEL);
	if (!request)
		return -ENOMEM;
	request->context = cpu_to_le16(context);
	request->symmetric = cpu_to_le16(rss->symmetric);
	request->table_length = cpu_to_le16(zn->rss_table_length);
	for (i = 0; i < ZCNIC_FLOW_TYPES; i++)
		request->fields[i] = cpu_to_le16(rss->fields[i]);
	memcpy(request->key, rss->key, sizeof(request->key));
	for (i = 0; i < zn->rss_table_length; i++)
		request->table[i] = cpu_to_le16(rss->table[i]);
	err = zcnic_command(zn, ZCNIC_CMD_RSS_SET, request, size, NULL, 0);
	kfree(request);
	return err;
}

/* Send @rss and keep it unless it is refused. */
static int zcnic_rss_set(struct zcnic *zn, u32 context,
			 const struct zcnic_rss *rss)
{
	int err = zcnic_rss_send(zn, context, rss);

	if (err && !zcnic_disconnected(err))
		return err;
	zn->rss[context] = *rss;
	return 0;
}

/* Apply what @rxfh changes to @rss. */
static int zcnic_rss_apply(struct zcnic *zn, struct zcnic_rss *rss,
			   const struct ethtool_rxfh_param *rxfh,
			   struct netlink_ext_ack *extack)
{
	u32 i;

	if (rxfh->hfunc != ETH_RSS_HASH_NO_CHANGE &&
	    rxfh->hfunc != ETH_RSS_HASH_TOP) {
		NL_SET_ERR_MSG_MOD(extack,
				   "the only hash function is toeplitz");
		return -EOPNOTSUPP;
	}
	if (rxfh->input_xfrm != RXH_XFRM_NO_CHANGE) {
		if (rxfh->input_xfrm &&
		    !(zn->features & BIT_ULL(ZCNIC_F_RSS_SYMMETRIC)))
			return -EOPNOTSUPP;
		if (rxfh->input_xfrm == RXH_XFRM_SYM_XOR)
			rss->symmetric = ZCNIC_RSS_SYM_XOR;
		else if (rxfh->input_xfrm == RXH_XFRM_SYM_OR_XOR)
			rss->symmetric = ZCNIC_RSS_SYM_OR_XOR;
		else
			rss->symmetric = ZCNIC_RSS_ASYMMETRIC;
	}
	if (rxfh->key)
		memcpy(rss->key, rxfh->key, sizeof(rss->key));
	for (i = 0; rxfh->indir && i < zn->rss_table_length; i++)
		rss->table[i] = rxfh->indir[i];
	return 0;
}

static int zcnic_rss_change(struct zcnic *zn, u32 context,
			    const struct ethtool_rxfh_param *rxfh,
			    struct netlink_ext_ack *extack)
{
	struct zcnic_rss *rss =
		kmemdup(&zn->rss[context], sizeof(*rss), GFP_KERNEL);
	int err;

	if (!rss)
		return -ENOMEM;
	err = zcnic_rss_apply(zn, rss, rxfh, extack);
	if (!err)
		err = zcnic_rss_set(zn, context, rss);
	kfree(rss);
	return err;
}

u32 zcnic_get_rxfh_key_size(struct net_device *dev)
{
	return ZCNIC_RSS_KEY_SIZE;
}

u32 zcnic_get_rxfh_indir_size(struct net_device *dev)
{
	struct zcnic *zn = netdev_priv(dev);

	return zn->rss_table_length;
}

int zcnic_get_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh)
{
	struct zcnic *zn = netdev_priv(dev);
	const struct zcnic_rss *rss;
	u32 i;

	rss = &zn->rss[0];
	rxfh->hfunc = ETH_RSS_HASH_TOP;
	rxfh->input_xfrm = 0;
	if (rss->symmetric == ZCNIC_RSS_SYM_XOR)
		rxfh->input_xfrm = RXH_XFRM_SYM_XOR;
	else if (rss->symmetric == ZCNIC_RSS_SYM_OR_XOR)
		rxfh->input_xfrm = RXH_XFRM_SYM_OR_XOR;
	if (rxfh->key)
		memcpy(rxfh->key, rss->key, sizeof(rss->key));
	for (i = 0; rxfh->indir && i < zn->rss_table_length; i++)
		rxfh->indir[i] = rss->table[i];
	return 0;
}

int zcnic_set_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh,
		   struct netlink_ext_ack *extack)
{
	return zcnic_rss_change(netdev_priv(dev), 0, rxfh, extack);
}

int zcnic_create_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx,
			      const struct ethtool_rxfh_param *rxfh,
			      struct netlink_ext_ack *extack)
{
	struct zcnic *zn = netdev_priv(dev);
	u32 context = rxfh->rss_context;
	struct zcnic_rss *rss;
	int err;
	u32 i;

	if (!(zn->features & BIT_ULL(ZCNIC_F_RSS_CONTEXTS)) ||
	    context >= zn->max_rss_contexts) {
		NL_SET_ERR_MSG_FMT_MOD(extack,
				       "the device has contexts 0 to %u",
				       zn->max_rss_contexts - 1);
		return -ENOSPC;
	}
	rss = kzalloc_obj(*rss);
	if (!rss)
		return -ENOMEM;
	rss->exists = true;
	memcpy(rss->fields, zcnic_default_fields, sizeof(rss->fields));
	memcpy(rss->key, zn->rss[0].key, sizeof(rss->key));
	zcnic_rss_set_default(rss, zn->rss_table_length, zn->channels);
	err = zcnic_rss_apply(zn, rss, rxfh, extack);
	if (!err)
		err = zcnic_rss_set(zn, context, rss);
	if (!err) {
		/* the core keeps the user's choices and gets the rest here */
		ctx->hfunc = ETH_RSS_HASH_TOP;
		memcpy(ethtool_rxfh_context_key(ctx), rss->key,
		       sizeof(rss->key));
		for (i = 0; i < zn->rss_table_length; i++)
			ethtool_rxfh_context_indir(ctx)[i] = rss->table[i];
	}
	kfree(rss);
	return err;
}

int zcnic_modify_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx,
			      const struct ethtool_rxfh_param *rxfh,
			      struct netlink_ext_ack *extack)
{
	return zcnic_rss_change(netdev_priv(dev), rxfh->rss_context, rxfh,
				extack);
}

int zcnic_remove_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx, u32 context,
			      struct netlink_ext_ack *extack)
{
	struct zcnic_rss_del request = { .context = cpu_to_le16(context) };
	struct zcnic *zn = netdev_priv(dev);
	int err;

	err = zcnic_command(zn, ZCNIC_CMD_RSS_DEL, &request, sizeof(request),
			    NULL, 0);
	if (err && !zcnic_disconnected(err) && err != -ENOENT)
		return err;
	memset(&zn->rss[context], 0, sizeof(zn->rss[context]));
	return 0;
}

static int zcnic_flow_type(u32 flow_type)
{
	switch (flow_type) {
	case TCP_V4_FLOW:
		return ZCNIC_FLOW_TCP4;
	case UDP_V4_FLOW:
		return ZCNIC_FLOW_UDP4;
	case IPV4_FLOW:
		return ZCNIC_FLOW_IPV4;
	case TCP_V6_FLOW:
		return ZCNIC_FLOW_TCP6;
	case UDP_V6_FLOW:
		return ZCNIC_FLOW_UDP6;
	case IPV6_FLOW:
		return ZCNIC_FLOW_IPV6;
	default:
		return -EOPNOTSUPP;
	}
}

static const struct {
	u32 ethtool;
	u16 field;
} zcnic_fields[] = {
	{ RXH_IP_SRC, ZCNIC_FIELD_IP_SRC },
	{ RXH_IP_DST, ZCNIC_FIELD_IP_DST },
	{ RXH_L4_B_0_1, ZCNIC_FIELD_L4_SRC },
	{ RXH_L4_B_2_3, ZCNIC_FIELD_L4_DST },
	{ RXH_IP6_FL, ZCNIC_FIELD_FLOW_LABEL },
};

int zcnic_get_rxfh_fields(struct net_device *dev,
			  struct ethtool_rxfh_fields *fields)
{
	int type = zcnic_flow_type(fields->flow_type);
	struct zcnic *zn = netdev_priv(dev);
	u32 i;

	if (type < 0)
		return type;
	if (fields->rss_context >= ZCNIC_MAX_RSS_CONTEXTS ||
	    !zn->rss[fields->rss_context].exists)
		return -ENOENT;
	fields->data = 0;
	for (i = 0; i < ARRAY_SIZE(zcnic_fields); i++)
		if (zn->rss[fields->rss_context].fields[type] &
		    zcnic_fields[i].field)
			fields->data |= zcnic_fields[i].ethtool;
	return 0;
}

int zcnic_set_rxfh_fields(struct net_device *dev,
			  const struct ethtool_rxfh_fields *fields,
			  struct netlink_ext_ack *extack)
{
	int type = zcnic_flow_type(fields->flow_type);
	struct zcnic *zn = netdev_priv(dev);
	u32 data = fields->data;
	u16 allowed, chosen = 0;
	struct zcnic_rss *rss;
	int err;
	u32 i;

	if (type < 0)
		return type;
	if (fields->rss_context >= ZCNIC_MAX_RSS_CONTEXTS ||
	    !zn->rss[fields->rss_context].exists)
		return -ENOENT;
	for (i = 0; i < ARRAY_SIZE(zcnic_fields); i++) {
		if (!(data & zcnic_fields[i].ethtool))
			continue;
		chosen |= zcnic_fields[i].field;
		data &= ~zcnic_fields[i].ethtool;
	}
	allowed = ZCNIC_FIELDS_L4;
	if (type == ZCNIC_FLOW_IPV4 || type == ZCNIC_FLOW_IPV6)
		allowed = ZCNIC_FIELDS_IP;
	if (type >= ZCNIC_FLOW_IPV6)
		allowed |= ZCNIC_FIELD_FLOW_LABEL;
	if (data || chosen & ~allowed) {
		NL_SET_ERR_MSG_MOD(extack,
				   "fields are s and d, for TCP and UDP also f and n, for IPv6 also l");
		return -EOPNOTSUPP;
	}

	rss = kmemdup(&zn->rss[fields->rss_context], sizeof(*rss), GFP_KERNEL);
	if (!rss)
		return -ENOMEM;
	rss->fields[type] = chosen;
	err = zcnic_rss_set(zn, fields->rss_context, rss);
	kfree(rss);
	return err;
}

/**
 * zcnic_rss_max_queue() - the highest queue in a context's table
 * @zn: the device
 * @context: the context, which exists
 *
 * Return: the queue.
 */
u16 zcnic_rss_max_queue(struct zcnic *zn, u32 context)
{
	u16 queue = 0;
	u32 i;

	for (i = 0; i < zn->rss_table_length; i++)
		queue = max(queue, zn->rss[context].table[i]);
	return queue;
}

/**
 * zcnic_rss_can_resize() - check the tables against a new number of channels
 * @zn: the device
 * @channels: the number
 *
 * Return: 0; -EINVAL if a table that a user set can't become shorter; -ENOMEM.
 */
int zcnic_rss_can_resize(struct zcnic *zn, u16 channels)
{
	u32 length = zcnic_rss_table_length(zn, channels);
	bool possible;
	u32 *table;
	u32 i;

	if (length == zn->rss_table_length)
		return 0;
	table = kcalloc(zn->rss_table_length, sizeof(*table), GFP_KERNEL);
	if (!table)
		return -ENOMEM;
	for (i = 0; i < zn->rss_table_length; i++)
		table[i] = zn->rss[0].table[i];
	possible = ethtool_rxfh_indir_can_resize(zn->dev, table,
						 zn->rss_table_length, length);
	kfree(table);
	if (!possible)
		return -EINVAL;
	return ethtool_rxfh_ctxs_can_resize(zn->dev, length);
}

/**
 * zcnic_rss_set_channels() - adapt the tables to a new number of channels
 * @zn: the device; zcnic_rss_can_resize() has returned 0
 * @channels: the number
 *
 * Context 0 gets the default table again unless a user has set its table.
 * Tables that users set are repeated or folded.
 *
 * Return: 0, or the errno of the device's first refusal.
 */
int zcnic_rss_set_channels(struct zcnic *zn, u16 channels)
{
	u32 length = zcnic_rss_table_length(zn, channels);
	u32 old = zn->rss_table_length;
	u32 context, i;
	int err = 0;

	zn->rss_table_length = length;
	for (context = 0; context < ZCNIC_MAX_RSS_CONTEXTS; context++) {
		struct zcnic_rss *rss = &zn->rss[context];

		if (!rss->exists)
			continue;
		if (!context && !netif_is_rxfh_configured(zn->dev)) {
			zcnic_rss_set_default(rss, length, channels);
		} else if (length == old) {
			continue;
		} else {
			for (i = old; i < length; i++)
				rss->table[i] = rss->table[i % old];
		}
		if (!err)
			err = zcnic_rss_send(zn, context, rss);
	}
	if (length != old)
		ethtool_rxfh_ctxs_resize(zn->dev, length);
	return zcnic_disconnected(err) ? 0 : err;
}

/**
 * zcnic_rss_replay() - send all contexts to a new session
 * @zn: the device
 *
 * A context that the device refuses is lost: the core and the log are notified.
 *
 * Return: 0 or a negative errno.
 */
int zcnic_rss_replay(struct zcnic *zn)
{
	u32 context;
	int err;

	err = zcnic_rss_send(zn, 0, &zn->rss[0]);
	for (context = 1; context < ZCNIC_MAX_RSS_CONTEXTS && !err; context++) {
		if (!zn->rss[context].exists)
			continue;
		err = zcnic_rss_send(zn, context, &zn->rss[context]);
		if (!err || zcnic_disconnected(err))
			continue;
		netdev_err(zn->dev, "RSS context %u: refused (%d) and lost\n",
			   context, err);
		memset(&zn->rss[context], 0, sizeof(zn->rss[context]));
		mutex_lock(&zn->dev->ethtool->rss_lock);
		ethtool_rxfh_context_lost(zn->dev, context);
		mutex_unlock(&zn->dev->ethtool->rss_lock);
		err = 0;
	}
	return err;
}
