// SPDX-License-Identifier: GPL-2.0-only
/* Flow rules (ethtool -N): kept here by location, executed by the device. */
#include "zcnic_command.h"

/* Per command at replay: 8 KiB, which needs no large allocation */
#define ZCNIC_RULES_PER_COMMAND	48

static int zcnic_rules_send(struct zcnic *zn, const struct zcnic_rule *rules,
			    u32 count)
{
	struct zcnic_rule_set *request;
	size_t size;
	int err;

	size = struct_size(request, rules, count);
	request = kzalloc(size, GFP_KERNEL);
	if (!request)
		return -ENOMEM;
	request->count = cpu_to_le32(count);
	memcpy(request->rules, rules, count * sizeof(*rules));
	err = zcnic_command(zn, ZCNIC_CMD_RULE_SET, request, size, NULL, 0);
	kfree(request);
	return err;
}

static int zcnic_rules_del(struct zcnic *zn, u32 location)
{
	struct zcnic_rule_del *request;
	size_t size;
	int err;

	size = struct_size(request, locations, 1);
	request = kzalloc(size, GFP_KERNEL);
	if (!request)
		return -ENOMEM;
	request->count = cpu_to_le32(1);
	request->locations[0] = cpu_to_le32(location);
	err = zcnic_command(zn, ZCNIC_CMD_RULE_DEL, request, size, NULL, 0);
	kfree(request);
	return err == -ENOENT ? 0 : err;
}

static void zcnic_flow_ip4(struct zcnic_flow *flow, __be32 src, __be32 dst,
			   u8 tos)
{
	flow->ip_src[0] = src;
	flow->ip_dst[0] = dst;
	flow->ip_tos = tos;
}

static void zcnic_flow_ip6(struct zcnic_flow *flow, const __be32 *src,
			   const __be32 *dst, u8 tclass)
{
	memcpy(flow->ip_src, src, sizeof(flow->ip_src));
	memcpy(flow->ip_dst, dst, sizeof(flow->ip_dst));
	flow->ip_tos = tclass;
}

/*
 * Convert one half, values or masks, of a specification.
 *
 * Return: 0 or -EOPNOTSUPP.
 */
static int zcnic_flow_parse(u32 type, const union ethtool_flow_union *u,
			    struct zcnic_flow *flow)
{
	switch (type) {
	case ETHER_FLOW:
		ether_addr_copy(flow->eth_dst, u->ether_spec.h_dest);
		ether_addr_copy(flow->eth_src, u->ether_spec.h_source);
		flow->eth_type = u->ether_spec.h_proto;
		return 0;
	case TCP_V4_FLOW:
	case UDP_V4_FLOW:
		zcnic_flow_ip4(flow, u->tcp_ip4_spec.ip4src,
			       u->tcp_ip4_spec.ip4dst, u->tcp_ip4_spec.tos);
		flow->l4_src = u->tcp_ip4_spec.psrc;
		flow->l4_dst = u->tcp_ip4_spec.pdst;
		return 0;
	case IPV4_USER_FLOW:
		zcnic_flow_ip4(flow, u->usr_ip4_spec.ip4src,
			       u->usr_ip4_spec.ip4dst, u->usr_ip4_spec.tos);
		flow->ip_proto = u->usr_ip4_spec.proto;
		return 0;
	case TCP_V6_FLOW:
	case UDP_V6_FLOW:
		zcnic_flow_ip6(flow, u->tcp_ip6_spec.ip6src,
			       u->tcp_ip6_spec.ip6dst, u->tcp_ip6_spec.tclass);
		flow->l4_src = u->tcp_ip6_spec.psrc;
		flow->l4_dst = u->tcp_ip6_spec.pdst;
		return 0;
	case IPV6_USER_FLOW:
		zcnic_flow_ip6(flow, u->usr_ip6_spec.ip6src,
			       u->usr_ip6_spec.ip6dst, u->usr_ip6_spec.tclass);
		flow->ip_proto = u->usr_ip6_spec.l4_proto;
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static int zcnic_rule_type(u32 type)
{
	switch (type) {
	case ETHER_FLOW:
		return ZCNIC_RULE_ETHER;
	case IPV4_USER_FLOW:
		return ZCNIC_RULE_IPV4;
	case TCP_V4_FLOW:
		return ZCNIC_RULE_TCP4;
	case UDP_V4_FLOW:
		return ZCNIC_RULE_UDP4;
	case IPV6_USER_FLOW:
		return ZCNIC_RULE_IPV6;
	case TCP_V6_FLOW:
		return ZCNIC_RULE_TCP6;
	case UDP_V6_FLOW:
		return ZCNIC_RULE_UDP6;
	default:
		return -EOPNOTSUPP;
	}
}

/* Return: 0, or a negative errno for matches that the device doesn't have. */
static int zcnic_rule_check(u32 type, const struct ethtool_rx_flow_spec *spec)
{
	switch (type) {
	case IPV4_USER_FLOW:
		if (spec->m_u.usr_ip4_spec.l4_4_bytes)
			return -EOPNOTSUPP;
		if (spec->h_u.usr_ip4_spec.ip_ver != ETH_RX_NFC_IP4)
			return -EINVAL;
		break;
	case IPV6_USER_FLOW:
		if (spec->m_u.usr_ip6_spec.l4_4_bytes)
			return -EOPNOTSUPP;
		break;
	}
	if (spec->flow_type & FLOW_EXT &&
	    (spec->m_ext.vlan_etype || spec->m_ext.data[0] ||
	     spec->m_ext.data[1]))
		return -EOPNOTSUPP;
	return 0;
}

static int zcnic_rule_match(const struct ethtool_rx_flow_spec *spec,
			    struct zcnic_rule *rule)
{
	u32 type = spec->flow_type & ~(FLOW_EXT | FLOW_MAC_EXT | FLOW_RSS);
	u8 *value = (u8 *)&rule->value;
	u8 *mask = (u8 *)&rule->mask;
	int kind, err;
	u32 i;

	kind = zcnic_rule_type(type);
	if (kind < 0)
		return kind;
	rule->type = kind;
	err = zcnic_rule_check(type, spec);
	if (err)
		return err;

	err = zcnic_flow_parse(type, &spec->h_u, &rule->value);
	if (err)
		return err;
	err = zcnic_flow_parse(type, &spec->m_u, &rule->mask);
	if (err)
		return err;
	if (spec->flow_type & FLOW_EXT) {
		rule->value.vlan_tci = spec->h_ext.vlan_tci;
		rule->mask.vlan_tci = spec->m_ext.vlan_tci;
	}
	if (spec->flow_type & FLOW_MAC_EXT) {
		ether_addr_copy(rule->value.eth_dst, spec->h_ext.h_dest);
		ether_addr_copy(rule->mask.eth_dst, spec->m_ext.h_dest);
	}
	for (i = 0; i < sizeof(rule->value); i++)
		value[i] &= mask[i];
	return 0;
}

static int zcnic_rule_action(struct zcnic *zn, const struct ethtool_rxnfc *cmd,
			     struct zcnic_rule *rule)
{
	const struct ethtool_rx_flow_spec *spec = &cmd->fs;
	u64 queue = spec->ring_cookie;

	if (queue == RX_CLS_FLOW_DISC) {
		rule->action = ZCNIC_ACTION_DROP;
		return spec->flow_type & FLOW_RSS ? -EINVAL : 0;
	}
	if (queue == RX_CLS_FLOW_WAKE)
		return -EOPNOTSUPP;
	if (queue >= zn->channels)
		return -EINVAL;
	rule->action = ZCNIC_ACTION_QUEUE;
	rule->queue = cpu_to_le16(queue);
	if (!(spec->flow_type & FLOW_RSS))
		return 0;

	if (cmd->rss_context >= ZCNIC_MAX_RSS_CONTEXTS ||
	    !zn->rss[cmd->rss_context].exists)
		return -EINVAL;
	/* the device adds the table's entry to the queue */
	if (queue + zcnic_rss_max_queue(zn, cmd->rss_context) >= zn->channels)
		return -EINVAL;
	rule->action = ZCNIC_ACTION_CONTEXT;
	rule->context = cpu_to_le16(cmd->rss_context);
	return 0;
}

static bool zcnic_rule_same_match(const struct zcnic_rule *a,
				  const struct zcnic_rule *b)
{
	return a->type == b->type &&
	       !memcmp(&a->value, &b->value, sizeof(a->value)) &&
	       !memcmp(&a->mask, &b->mask, sizeof(a->mask));
}

/*
 * "Any" and "last" allocate from the top down, so that rules with a location
 * come before them. The device takes the first rule that matches: a second rule
 * for the same frames would have no effect, and with the location of the first
 * one it would belong to two owners, of which either could delete it. So it is
 * refused. A rule is changed by inserting it at its own location.
 */
static int zcnic_rule_location(struct zcnic *zn, u32 wanted,
			       const struct zcnic_rule *rule)
{
	int free = -ENOSPC;
	u32 i;

	if (wanted < zn->max_rules)
		return wanted;
	if (wanted != RX_CLS_LOC_ANY && wanted != RX_CLS_LOC_FIRST &&
	    wanted != RX_CLS_LOC_LAST)
		return -EINVAL;
	for (i = 0; i < zn->max_rules; i++) {
		if (!zn->rules[i]) {
			if (free < 0 || wanted != RX_CLS_LOC_FIRST)
				free = i;
		} else if (zcnic_rule_same_match(&zn->rules[i]->rule, rule)) {
			return -EEXIST;
		}
	}
	return free;
}

static int zcnic_rule_insert(struct zcnic *zn, struct ethtool_rxnfc *cmd)
{
	struct zcnic_flow_rule *entry;
	int location, err;

	if (!(zn->dev->features & NETIF_F_NTUPLE))
		return -EOPNOTSUPP;
	entry = kzalloc_obj(*entry);
	if (!entry)
		return -ENOMEM;
	err = zcnic_rule_match(&cmd->fs, &entry->rule);
	if (err)
		goto err_free;
	err = zcnic_rule_action(zn, cmd, &entry->rule);
	if (err)
		goto err_free;
	location = zcnic_rule_location(zn, cmd->fs.location, &entry->rule);
	if (location < 0) {
		err = location;
		goto err_free;
	}
	entry->rule.location = cpu_to_le32(location);
	entry->spec = cmd->fs;
	entry->spec.location = location;
	if (cmd->fs.flow_type & FLOW_RSS)
		entry->rss_context = cmd->rss_context;

	err = zcnic_rules_send(zn, &entry->rule, 1);
	if (err && !zcnic_disconnected(err))
		goto err_free;
	zn->rule_count += !zn->rules[location];
	kfree(zn->rules[location]);
	zn->rules[location] = entry;
	cmd->fs.location = location;
	return 0;

err_free:
	kfree(entry);
	return err;
}

static void zcnic_rule_free(struct zcnic *zn, u32 location)
{
	kfree(zn->rules[location]);
	zn->rules[location] = NULL;
	zn->rule_count--;
}

/**
 * zcnic_rules_flush() - delete all rules
 * @zn: the device
 *
 * Return: 0, or the errno of the device's refusal.
 */
int zcnic_rules_flush(struct zcnic *zn)
{
	struct zcnic_rule_del *request;
	u32 i, count = 0;
	size_t size;
	int err;

	size = struct_size(request, locations, zn->rule_count);
	if (!zn->rule_count)
		return 0;
	request = kzalloc(size, GFP_KERNEL);
	if (!request)
		return -ENOMEM;
	for (i = 0; i < ZCNIC_MAX_RULES; i++)
		if (zn->rules[i])
			request->locations[count++] = cpu_to_le32(i);
	request->count = cpu_to_le32(count);
	err = zcnic_command(zn, ZCNIC_CMD_RULE_DEL, request, size, NULL, 0);
	kfree(request);
	if (err && !zcnic_disconnected(err))
		return err;
	for (i = 0; i < ZCNIC_MAX_RULES; i++)
		if (zn->rules[i])
			zcnic_rule_free(zn, i);
	return 0;
}

static int zcnic_rule_remove(struct zcnic *zn, u32 location)
{
	int err;

	if (location >= ZCNIC_MAX_RULES || !zn->rules[location])
		return -ENOENT;
	err = zcnic_rules_del(zn, location);
	if (err && !zcnic_disconnected(err))
		return err;
	zcnic_rule_free(zn, location);
	return 0;
}

int zcnic_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd)
{
	struct zcnic *zn = netdev_priv(dev);

	switch (cmd->cmd) {
	case ETHTOOL_SRXCLSRLINS:
		return zcnic_rule_insert(zn, cmd);
	case ETHTOOL_SRXCLSRLDEL:
		return zcnic_rule_remove(zn, cmd->fs.location);
	default:
		return -EOPNOTSUPP;
	}
}

int zcnic_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd,
		    u32 *locations)
{
	struct zcnic *zn = netdev_priv(dev);
	const struct zcnic_flow_rule *entry;
	u32 i, count = 0;

	switch (cmd->cmd) {
	case ETHTOOL_GRXCLSRLCNT:
		cmd->rule_cnt = zn->rule_count;
		cmd->data = zn->max_rules | RX_CLS_LOC_SPECIAL;
		return 0;
	case ETHTOOL_GRXCLSRULE:
		if (cmd->fs.location >= ZCNIC_MAX_RULES ||
		    !zn->rules[cmd->fs.location])
			return -ENOENT;
		entry = zn->rules[cmd->fs.location];
		cmd->fs = entry->spec;
		cmd->rss_context = entry->rss_context;
		/*
		 * To find the channels in use, the core looks for FLOW_RSS
		 * here, and then for the context among those that can be
		 * created, which context 0 is not.
		 */
		cmd->flow_type = entry->spec.flow_type;
		if (!entry->rss_context)
			cmd->flow_type &= ~FLOW_RSS;
		return 0;
	case ETHTOOL_GRXCLSRLALL:
		for (i = 0; i < ZCNIC_MAX_RULES; i++) {
			if (!zn->rules[i])
				continue;
			if (count == cmd->rule_cnt)
				return -EMSGSIZE;
			locations[count++] = i;
		}
		cmd->data = zn->max_rules;
		cmd->rule_cnt = count;
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

/**
 * zcnic_rules_fit() - check the rules against a new number of channels
 * @zn: the device
 * @channels: the number
 *
 * The core checks this, too, but ignores queue offsets into context 0.
 *
 * Return: whether all rules point to queues below it.
 */
bool zcnic_rules_fit(struct zcnic *zn, u16 channels)
{
	const struct zcnic_flow_rule *entry;
	u32 i, queue;

	for (i = 0; i < ZCNIC_MAX_RULES; i++) {
		entry = zn->rules[i];
		if (!entry || entry->rule.action == ZCNIC_ACTION_DROP)
			continue;
		queue = le16_to_cpu(entry->rule.queue);
		if (entry->rule.action == ZCNIC_ACTION_QUEUE) {
			if (queue >= channels)
				return false;
			continue;
		}
		/* the default table of context 0 shrinks with the channels */
		if (entry->rss_context == 0 &&
		    !netif_is_rxfh_configured(zn->dev))
			queue += channels - 1;
		else
			queue += zcnic_rss_max_queue(zn, entry->rss_context);
		if (queue >= channels)
			return false;
	}
	return true;
}

static int zcnic_rules_replay_one(struct zcnic *zn, u32 location)
{
	int err = zcnic_rules_send(zn, &zn->rules[location]->rule, 1);

	if (!err || zcnic_disconnected(err))
		return err;
	netdev_err(zn->dev, "flow rule %u: refused (%d) and lost\n", location,
		   err);
	zcnic_rule_free(zn, location);
	return 0;
}

/**
 * zcnic_rules_replay() - send all rules to a new session
 * @zn: the device
 *
 * The device executes a command whole or not at all. If it refuses one, each of
 * its rules is sent alone, and those that are refused are lost.
 *
 * Return: 0 or a negative errno.
 */
int zcnic_rules_replay(struct zcnic *zn)
{
	u32 i = 0, end, first, count;
	struct zcnic_rule *rules;
	int err = 0;

	if (!zn->rule_count)
		return 0;
	rules = kvcalloc(ZCNIC_RULES_PER_COMMAND, sizeof(*rules), GFP_KERNEL);
	if (!rules)
		return -ENOMEM;
	while (i < ZCNIC_MAX_RULES && !err) {
		first = i;
		for (count = 0;
		     i < ZCNIC_MAX_RULES && count < ZCNIC_RULES_PER_COMMAND;
		     i++)
			if (zn->rules[i])
				rules[count++] = zn->rules[i]->rule;
		end = i;
		err = count ? zcnic_rules_send(zn, rules, count) : 0;
		if (!err || zcnic_disconnected(err))
			continue;
		err = 0;
		for (i = first; i < end && !err; i++)
			if (zn->rules[i])
				err = zcnic_rules_replay_one(zn, i);
		i = end;
	}
	kvfree(rules);
	return err;
}

/**
 * zcnic_rules_free() - free all rules but leave the device alone
 * @zn: the device
 */
void zcnic_rules_free(struct zcnic *zn)
{
	u32 i;

	for (i = 0; i < ZCNIC_MAX_RULES; i++)
		kfree(zn->rules[i]);
}
