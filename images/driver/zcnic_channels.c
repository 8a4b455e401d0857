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

/*
 * Only pairs that come or go are touched. Nothing is ever steered to a queue
 * that is closed: new pairs are opened before the tables name them, and the
 * tables stop naming old ones before they are closed.
 */
int zcnic_set_channels(struct net_device *dev,
		       struct ethtool_channels *channels)
{
	u16 count = channels->combined_count;
	struct zcnic *zn = netdev_priv(dev);
	bool running = netif_running(dev);
	u16 old = zn->channels;
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

	if (count > old && running) {
		err = zcnic_pairs_open(zn, old, count);
		if (err)
			return err;
	}
	err = netif_set_real_num_queues(dev, count, count);
	if (err) {
		if (count > old && running)
			zcnic_pairs_close(zn, old, count);
		return err;
	}
	zn->channels = count;
	err = zcnic_rss_set_channels(zn, count);
	if (err) {
		/* it took these tables before: replay them all */
		netdev_err(dev,
			   "the device refused the tables for %u channels: %d\n",
			   count, err);
		zcnic_request_reset(zn);
	}
	if (count < old && running)
		zcnic_pairs_close(zn, count, old);
	zcnic_set_xps(zn);
	if (count > old && running && zn->present)
		netif_tx_wake_all_queues(dev);
	return 0;
}
