// SPDX-License-Identifier: GPL-2.0-only
/* The number of queue pairs in use (ethtool -L), and who sends on which. */
#include "zcnic_command.h"
#include "zcnic_netdev.h"
#include "zcnic_queue.h"

/**
 * zcnic_set_xps() - assign each processor the queue that it sends on
 * @zn: the device
 *
 * The device serves its queues in turn, so frames that must stay in order must
 * not be on several. Without XPS the frames of a packet socket are: each goes
 * to the queue that its flow's hash selects.
 */
void zcnic_set_xps(struct zcnic *zn)
{
	cpumask_var_t mask;
	unsigned int cpu;
	u16 i;

	if (!zalloc_cpumask_var(&mask, GFP_KERNEL))
		return;
	for (i = 0; i < zn->channels; i++) {
		unsigned int turn = 0;

		cpumask_clear(mask);
		for_each_possible_cpu(cpu)
			if (turn++ % zn->channels == i)
				cpumask_set_cpu(cpu, mask);
		netif_set_xps_queue(zn->dev, mask, i);
	}
	free_cpumask_var(mask);
}

void zcnic_get_channels(struct net_device *dev,
			struct ethtool_channels *channels)
{
	struct zcnic *zn = netdev_priv(dev);

	channels->max_combined = zn->pair_count;
	channels->combined_count = zn->channels;
}

/* Whether zcnic_set_xps() assigned the queues, and no user did since */
static bool zcnic_xps_is_default(const struct zcnic *zn)
{
	bool same = true;
#ifdef CONFIG_XPS
	const struct xps_dev_maps *maps;
	const struct xps_map *map;
	unsigned int cpu, turn = 0;

	rcu_read_lock();
	maps = rcu_dereference(zn->dev->xps_maps[XPS_CPUS]);
	same = maps && maps->num_tc == 1;
	for_each_possible_cpu(cpu) {
		if (!same)
			break;
		map = rcu_dereference(maps->attr_map[cpu]);
		same = map && map->len == 1 &&
		       map->queues[0] == turn++ % zn->channels;
	}
	rcu_read_unlock();
#endif
	return same;
}

/*
 * The pairs are open before the core knows their queues and the tables name
 * them.
 */
static int zcnic_add_channels(struct zcnic *zn, u16 count)
{
	struct net_device *dev = zn->dev;
	u16 old = zn->channels;
	int err;
	u16 i;

	if (netif_running(dev)) {
		err = zcnic_pairs_open(zn, old, count);
		if (err)
			return err;
	}
	err = netif_set_real_num_queues(dev, count, count);
	if (err) {
		if (netif_running(dev))
			zcnic_pairs_close(zn, old, count);
		return err;
	}
	zn->channels = count;
	err = zcnic_rss_set_channels(zn, count);
	for (i = old; i < count && netif_running(dev) && zn->present; i++)
		netif_wake_subqueue(dev, i);
	return err;
}

/*
 * The core stops sending on the queues, then the tables stop naming them. The
 * core must know the receive queues until the pairs are closed: it warns of
 * frames on others.
 */
static int zcnic_remove_channels(struct zcnic *zn, u16 count)
{
	struct net_device *dev = zn->dev;
	u16 old = zn->channels;
	int err, refused;
	u16 i;

	err = netif_set_real_num_tx_queues(dev, count);
	if (err)
		return err;
	zn->channels = count;
	refused = zcnic_rss_set_channels(zn, count);
	if (netif_running(dev))
		zcnic_pairs_close(zn, count, old);
	err = netif_set_real_num_rx_queues(dev, count);
	/* the watchdog looks at all queues: none may stay stopped */
	for (i = count; i < old && netif_running(dev); i++)
		netif_tx_start_queue(netdev_get_tx_queue(dev, i));
	return err ? err : refused;
}

/* Only pairs that come or go are touched. */
int zcnic_set_channels(struct net_device *dev,
		       struct ethtool_channels *channels)
{
	u16 count = channels->combined_count;
	struct zcnic *zn = netdev_priv(dev);
	u16 old = zn->channels;
	bool default_xps;
	int err;

	if (!count)
		return -EINVAL;
	if (count == old)
		return 0;
	if (!zcnic_rules_fit(zn, count))
		return -EINVAL;
	err = zcnic_rss_can_resize(zn, count);
	if (err)
		return err;

	default_xps = zcnic_xps_is_default(zn);
	if (count > old)
		err = zcnic_add_channels(zn, count);
	else
		err = zcnic_remove_channels(zn, count);
	if (zn->channels == old)
		return err;
	if (err) {
		/* it took these tables before: replay them all */
		netdev_err(dev,
			   "the device refused the tables for %u channels: %d\n",
			   count, err);
		zcnic_request_reset(zn);
	}
	if (default_xps)
		zcnic_set_xps(zn);
	return 0;
}
