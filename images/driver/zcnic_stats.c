// SPDX-License-Identifier: GPL-2.0-only
/*
 * Statistics. The driver counts frames and bytes as they are on the wire.
 * Counters that only the device has (no buffer, stopped queue, filters) are
 * fetched every few seconds, and for ethtool -S at once.
 */
#include "zcnic_command.h"
#include "zcnic_stats.h"

/*
 * Add what was counted since the last fetch. A counter that went back is that
 * of another backend, which counts from 0.
 */
static void zcnic_stats_add(void *sums, void *fetched, const void *counters,
			    size_t size)
{
	const __le64 *now = counters;
	__le64 *last = fetched;
	__le64 *sum = sums;
	u64 value, before;
	size_t i;

	for (i = 0; i < size / sizeof(*now); i++) {
		value = le64_to_cpu(now[i]);
		before = le64_to_cpu(last[i]);
		le64_add_cpu(&sum[i], value - (value < before ? 0 : before));
		last[i] = now[i];
	}
}

/**
 * zcnic_stats_fetch() - get the device's counters
 * @zn: the device; the caller holds the instance lock
 *
 * Called at the start of a session as well, when a new backend has counted
 * nothing yet.
 *
 * Return: as zcnic_command().
 */
int zcnic_stats_fetch(struct zcnic *zn)
{
	struct zcnic_stats request = { .count = cpu_to_le16(zn->pair_count) };
	struct zcnic_stats_response *response;
	size_t size;
	int err;

	size = struct_size(response, queues, zn->pair_count);
	response = kzalloc(size, GFP_KERNEL);
	if (!response)
		return -ENOMEM;
	err = zcnic_command(zn, ZCNIC_CMD_STATS, &request, sizeof(request),
			    response, size);
	if (!err) {
		zcnic_stats_add(&zn->port_stats, &zn->port_fetched,
				&response->port, sizeof(response->port));
		zcnic_stats_add(zn->queue_stats, zn->queue_fetched,
				response->queues,
				zn->pair_count * sizeof(*zn->queue_stats));
	}
	kfree(response);
	return err;
}

static u64 zcnic_hw_overruns(const struct zcnic *zn, u16 queue)
{
	return le64_to_cpu(zn->queue_stats[queue].rx_no_buffer);
}

static u64 zcnic_hw_drops(const struct zcnic *zn, u16 queue)
{
	const struct zcnic_queue_stats *stats = &zn->queue_stats[queue];

	return le64_to_cpu(stats->rx_no_buffer) +
	       le64_to_cpu(stats->rx_stopped) +
	       le64_to_cpu(stats->rx_too_long) +
	       le64_to_cpu(stats->rx_unsplit_too_long);
}

static void zcnic_get_queue_stats_rx(struct net_device *dev, int queue,
				     struct netdev_queue_stats_rx *out)
{
	struct zcnic *zn = netdev_priv(dev);
	struct zcnic_rx_stats *stats;
	unsigned int start;

	stats = &zn->pairs[queue].rx.stats;
	do {
		start = u64_stats_fetch_begin(&stats->syncp);
		out->packets = u64_stats_read(&stats->packets);
		out->bytes = u64_stats_read(&stats->bytes);
		out->alloc_fail = u64_stats_read(&stats->alloc_fail);
		out->csum_unnecessary =
			u64_stats_read(&stats->csum_unnecessary);
		out->csum_none = u64_stats_read(&stats->csum_none);
		out->csum_bad = u64_stats_read(&stats->csum_bad);
		out->hw_gro_packets = u64_stats_read(&stats->gro_packets);
		out->hw_gro_bytes = u64_stats_read(&stats->gro_bytes);
		out->hw_gro_wire_packets =
			u64_stats_read(&stats->gro_wire_packets);
		out->hw_gro_wire_bytes = u64_stats_read(&stats->gro_wire_bytes);
	} while (u64_stats_fetch_retry(&stats->syncp, start));
	out->hw_drops = zcnic_hw_drops(zn, queue);
	out->hw_drop_overruns = zcnic_hw_overruns(zn, queue);
}

static void zcnic_get_queue_stats_tx(struct net_device *dev, int queue,
				     struct netdev_queue_stats_tx *out)
{
	struct zcnic *zn = netdev_priv(dev);
	struct zcnic_tx_stats *stats;
	unsigned int start;

	stats = &zn->pairs[queue].tx.stats;
	do {
		start = u64_stats_fetch_begin(&stats->syncp);
		out->packets = u64_stats_read(&stats->packets);
		out->bytes = u64_stats_read(&stats->bytes);
		out->csum_none = u64_stats_read(&stats->csum_none);
		out->needs_csum = u64_stats_read(&stats->needs_csum);
		out->hw_gso_packets = u64_stats_read(&stats->gso_packets);
		out->hw_gso_bytes = u64_stats_read(&stats->gso_bytes);
		out->hw_gso_wire_packets =
			u64_stats_read(&stats->gso_wire_packets);
		out->hw_gso_wire_bytes = u64_stats_read(&stats->gso_wire_bytes);
		out->stop = u64_stats_read(&stats->stop);
		out->wake = u64_stats_read(&stats->wake);
	} while (u64_stats_fetch_retry(&stats->syncp, start));
	out->hw_drops = le64_to_cpu(zn->queue_stats[queue].tx_errors);
	out->hw_drop_errors = out->hw_drops;
}

/* Counters outlive their queues: the base is those of closed pairs. */
static void zcnic_get_base_stats(struct net_device *dev,
				 struct netdev_queue_stats_rx *rx,
				 struct netdev_queue_stats_tx *tx)
{
	struct zcnic *zn = netdev_priv(dev);

	memset(rx, 0, sizeof(*rx));
	memset(tx, 0, sizeof(*tx));
	rx->csum_complete = U64_MAX;
	rx->hw_drop_ratelimits = U64_MAX;
	tx->hw_drop_ratelimits = U64_MAX;
	netdev_stat_queue_sum(dev, dev->real_num_rx_queues, zn->pair_count, rx,
			      dev->real_num_tx_queues, zn->pair_count, tx);
}

const struct netdev_stat_ops zcnic_stat_ops = {
	.get_queue_stats_rx	= zcnic_get_queue_stats_rx,
	.get_queue_stats_tx	= zcnic_get_queue_stats_tx,
	.get_base_stats		= zcnic_get_base_stats,
};

static void zcnic_add_rx_stats64(struct zcnic *zn, u16 queue,
				 struct rtnl_link_stats64 *out)
{
	struct zcnic_rx_stats *rx = &zn->pairs[queue].rx.stats;
	u64 packets, bytes, dropped, bad;
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&rx->syncp);
		packets = u64_stats_read(&rx->packets);
		bytes = u64_stats_read(&rx->bytes);
		dropped = u64_stats_read(&rx->dropped) +
			  u64_stats_read(&rx->unreadable);
		bad = u64_stats_read(&rx->bad_header);
	} while (u64_stats_fetch_retry(&rx->syncp, start));
	out->rx_packets += packets;
	out->rx_bytes += bytes;
	out->rx_dropped += dropped;
	out->rx_frame_errors += bad;
	out->rx_errors += bad;
	out->rx_missed_errors += zcnic_hw_drops(zn, queue);
}

static void zcnic_add_tx_stats64(struct zcnic *zn, u16 queue,
				 struct rtnl_link_stats64 *out)
{
	struct zcnic_tx_stats *tx = &zn->pairs[queue].tx.stats;
	u64 packets, bytes, dropped;
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&tx->syncp);
		packets = u64_stats_read(&tx->packets);
		bytes = u64_stats_read(&tx->bytes);
		dropped = u64_stats_read(&tx->dropped);
	} while (u64_stats_fetch_retry(&tx->syncp, start));
	out->tx_packets += packets;
	out->tx_bytes += bytes;
	out->tx_dropped += dropped;
	out->tx_errors += le64_to_cpu(zn->queue_stats[queue].tx_errors);
}

void zcnic_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *stats)
{
	struct zcnic *zn = netdev_priv(dev);
	u64 oversize;
	u16 i;

	oversize = le64_to_cpu(zn->port_stats.rx_oversize);
	stats->rx_length_errors += oversize;
	stats->rx_errors += oversize;
	for (i = 0; i < zn->pair_count; i++) {
		zcnic_add_rx_stats64(zn, i, stats);
		zcnic_add_tx_stats64(zn, i, stats);
	}
}

struct zcnic_stat {
	const char *name;
	u32 offset;
};

#define PORT_STAT(name) \
	{ "device_" #name, offsetof(struct zcnic_port_stats, name) }
static const struct zcnic_stat zcnic_port_stat_names[] = {
	PORT_STAT(rx_filtered),
	PORT_STAT(rx_rule_drop),
	PORT_STAT(rx_oversize),
	PORT_STAT(commands),
	PORT_STAT(commands_refused),
};

#define QUEUE_STAT(name) \
	{ "device_" #name, offsetof(struct zcnic_queue_stats, name) }
static const struct zcnic_stat zcnic_queue_stat_names[] = {
	QUEUE_STAT(rx_frames),
	QUEUE_STAT(rx_bytes),
	QUEUE_STAT(rx_split),
	QUEUE_STAT(rx_unsplit),
	QUEUE_STAT(rx_long_headers),
	QUEUE_STAT(rx_csum_bad),
	QUEUE_STAT(rx_no_buffer),
	QUEUE_STAT(rx_stopped),
	QUEUE_STAT(rx_too_long),
	QUEUE_STAT(rx_unsplit_too_long),
	QUEUE_STAT(rx_bad_chain),
	QUEUE_STAT(rx_gro_frames),
	QUEUE_STAT(rx_gro_bytes),
	QUEUE_STAT(rx_gro_wire_frames),
	QUEUE_STAT(rx_gro_wire_bytes),
	QUEUE_STAT(tx_frames),
	QUEUE_STAT(tx_bytes),
	QUEUE_STAT(tx_errors),
};

#define DRIVER_STAT(name) \
	{ "rx_" #name, offsetof(struct zcnic_rx_stats, name) }
static const struct zcnic_stat zcnic_driver_stat_names[] = {
	DRIVER_STAT(split),
	DRIVER_STAT(dropped),
	DRIVER_STAT(unreadable),
	DRIVER_STAT(bad_header),
	DRIVER_STAT(csum_bad),
	DRIVER_STAT(returned),
	DRIVER_STAT(misordered),
	DRIVER_STAT(lost_interrupts),
	DRIVER_STAT(xdp_drop),
	DRIVER_STAT(xdp_tx),
	DRIVER_STAT(xdp_redirect),
	DRIVER_STAT(xdp_error),
};

int zcnic_get_sset_count(struct net_device *dev, int set)
{
	struct zcnic *zn = netdev_priv(dev);

	if (set != ETH_SS_STATS)
		return -EOPNOTSUPP;
	return 2 + ARRAY_SIZE(zcnic_port_stat_names) +
	       zn->pair_count * (ARRAY_SIZE(zcnic_driver_stat_names) + 1 +
				 ARRAY_SIZE(zcnic_queue_stat_names));
}

void zcnic_get_strings(struct net_device *dev, u32 set, u8 *data)
{
	struct zcnic *zn = netdev_priv(dev);
	u16 queue;
	u32 i;

	if (set != ETH_SS_STATS)
		return;
	ethtool_puts(&data, "resets");
	ethtool_puts(&data, "sessions");
	for (i = 0; i < ARRAY_SIZE(zcnic_port_stat_names); i++)
		ethtool_puts(&data, zcnic_port_stat_names[i].name);
	for (queue = 0; queue < zn->pair_count; queue++) {
		for (i = 0; i < ARRAY_SIZE(zcnic_driver_stat_names); i++)
			ethtool_sprintf(&data, "q%u_%s", queue,
					zcnic_driver_stat_names[i].name);
		ethtool_sprintf(&data, "q%u_tx_misordered", queue);
		for (i = 0; i < ARRAY_SIZE(zcnic_queue_stat_names); i++)
			ethtool_sprintf(&data, "q%u_%s", queue,
					zcnic_queue_stat_names[i].name);
	}
}

static u64 zcnic_read_stat(const struct u64_stats_sync *syncp,
			   const u64_stats_t *counter)
{
	unsigned int start;
	u64 value;

	do {
		start = u64_stats_fetch_begin(syncp);
		value = u64_stats_read(counter);
	} while (u64_stats_fetch_retry(syncp, start));
	return value;
}

static u64 *zcnic_get_queue_stats(const struct zcnic *zn, u16 queue, u64 *data)
{
	const struct zcnic_rx_stats *rx = &zn->pairs[queue].rx.stats;
	const struct zcnic_tx_stats *tx = &zn->pairs[queue].tx.stats;
	const void *device = &zn->queue_stats[queue];
	const void *driver = rx;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(zcnic_driver_stat_names); i++)
		*data++ = zcnic_read_stat(&rx->syncp, driver +
					  zcnic_driver_stat_names[i].offset);
	*data++ = zcnic_read_stat(&tx->syncp, &tx->misordered);
	for (i = 0; i < ARRAY_SIZE(zcnic_queue_stat_names); i++)
		*data++ = le64_to_cpup(device +
				       zcnic_queue_stat_names[i].offset);
	return data;
}

void zcnic_get_ethtool_stats(struct net_device *dev,
			     struct ethtool_stats *stats, u64 *data)
{
	struct zcnic *zn = netdev_priv(dev);
	const void *port = &zn->port_stats;
	u16 queue;
	u32 i;

	/* on failure the values of the last fetch are shown */
	zcnic_stats_fetch(zn);
	*data++ = zn->resets;
	*data++ = zn->sessions;
	for (i = 0; i < ARRAY_SIZE(zcnic_port_stat_names); i++)
		*data++ = le64_to_cpup(port + zcnic_port_stat_names[i].offset);
	for (queue = 0; queue < zn->pair_count; queue++)
		data = zcnic_get_queue_stats(zn, queue, data);
}

/* Statistics of transmit time stamps, see zcnic_tx_wants_hwtstamp() */
void zcnic_get_ts_stats(struct net_device *dev, struct ethtool_ts_stats *stats)
{
	struct zcnic *zn = netdev_priv(dev);
	u16 i;

	stats->pkts = 0;
	stats->lost = 0;
	stats->err = 0;
	for (i = 0; i < zn->pair_count; i++) {
		const struct zcnic_tx_stats *tx = &zn->pairs[i].tx.stats;

		stats->pkts += zcnic_read_stat(&tx->syncp, &tx->hwtstamps);
		stats->lost += zcnic_read_stat(&tx->syncp, &tx->hwtstamps_lost);
		stats->err += zcnic_read_stat(&tx->syncp,
					      &tx->hwtstamps_failed);
	}
}
