// SPDX-License-Identifier: GPL-2.0-only
#include "zcnic.h"

/**
 * zcnic_set_xps() - have each processor send on one queue
 * @zn: the device
 *
 * The device takes turns among queues, so frames that belong together in their order must not be on several.
 * Without this, the frames of a packet socket are: each goes where its flow's hash says.
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

/*
 * Only pairs that come or go are touched. Nothing is ever steered to a queue that is not there: new ones
 * are opened before the tables know them, and the tables forget old ones before they are closed.
 */
int zcnic_set_channels(struct net_device *dev,
			      struct ethtool_channels *channels)
{
	struct zcnic *zn = netdev_priv(dev);
	u16 count = channels->combined_count, old = zn->channels;
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

	if (count > old && netif_running(dev)) {
		err = zcnic_pairs_open(zn, old, count);
		if (err)
			return err;
	}
	err = netif_set_real_num_queues(dev, count, count);
	if (err) {
		if (count > old && netif_running(dev))
			zcnic_pairs_close(zn, old, count);
		return err;
	}
	zn->channels = count;
	err = zcnic_rss_set_channels(zn, count);
	if (err) {
		/* it took these tables before; replay them all */
		netdev_err(
			dev,
			"the device refused the tables for %u channels: %d\n",
			count, err);
		zcnic_request_reset(zn);
	}
	if (count < old && netif_running(dev))
		zcnic_pairs_close(zn, count, old);
	zcnic_set_xps(zn);
	if (count > old && netif_running(dev) && zn->present)
		netif_tx_wake_all_queues(dev);
	return 0;
}
