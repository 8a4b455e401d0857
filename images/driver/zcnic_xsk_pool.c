// SPDX-License-Identifier: GPL-2.0-only
/*
 * Giving a queue an AF_XDP pool and taking it away.
 *
 * The pool's memory belongs to a user and goes with its socket, so it can't
 * stay in the rings until a backend returns it. If chains don't return by
 * themselves, the device is reset.
 */
#include <net/xdp_sock_drv.h>

#include "zcnic_command.h"
#include "zcnic_queue.h"
#include "zcnic_session.h"
#include "zcnic_xdp.h"

/* The longest that frames may take to complete when their pool goes */
#define ZCNIC_XSK_DRAIN_TIMEOUT	HZ

/*
 * Get everything of the pool out of the pair's rings. The receive queue is
 * stopped, and so is NAPI.
 */
static void zcnic_xsk_drain(struct zcnic_pair *pair)
{
	unsigned long deadline = jiffies + ZCNIC_XSK_DRAIN_TIMEOUT;
	struct zcnic *zn = pair->zn;

	while (pair->tx.xsk_descs && zn->live &&
	       time_before(jiffies, deadline) &&
	       !virtqueue_is_broken(pair->tx.vq)) {
		local_bh_disable();
		zcnic_tx_poll(pair, 1);
		local_bh_enable();
		if (pair->tx.xsk_descs)
			usleep_range(500, 1000);
	}
	if (!pair->tx.xsk_descs && !pair->rx.xsk_buffers)
		return;
	zcnic_device_detach(zn);
	zcnic_request_reset(zn);
	zcnic_napi_stop(pair);
}

/* Pools see frames as they were on the wire: zcnic_fix_features() asks. */
static void zcnic_xsk_count(struct zcnic *zn, int change)
{
	zn->xsk_pools += change;
	zcnic_update_features(zn);
}

static int zcnic_xsk_enable(struct zcnic_pair *pair, struct xsk_buff_pool *pool)
{
	struct zcnic_rx_mem mem = {};
	struct zcnic *zn = pair->zn;
	int err;

	err = xsk_pool_dma_map(pool, zn->dma_dev, 0);
	if (err)
		return err;
	zcnic_xsk_count(zn, 1);
	pair->xsk = pool;
	pair->tx.xsk = pool;
	if (pair->open) {
		zcnic_xsk_mem(pool, &mem);
		zcnic_pair_exchange(pair, &mem);
		zcnic_rx_mem_free(&mem);
	}
	return 0;
}

static void zcnic_xsk_disable(struct zcnic_pair *pair)
{
	struct xsk_buff_pool *pool = pair->xsk;
	struct netdev_queue_config qcfg;
	struct zcnic_rx_mem mem = {};
	struct zcnic *zn = pair->zn;
	int err = 0;

	pair->xsk = NULL;
	netdev_queue_config(zn->dev, pair->index, &qcfg);
	if (pair->open)
		err = zcnic_rx_mem_alloc(pair, zn->rx_pending,
					 qcfg.rx_page_size, zn->split,
					 zn->hds_thresh, &mem);
	/* this can't fail: the queue receives nothing until reconfigured */
	if (err)
		netdev_err(zn->dev, "no memory for receive queue %u\n",
			   pair->index);
	zcnic_napi_stop(pair);
	if (pair->open)
		zcnic_rx_stop(pair);
	zcnic_xsk_drain(pair);
	pair->tx.xsk = NULL;
	if (pair->open)
		zcnic_pair_exchange(pair, &mem);
	zcnic_rx_mem_free(&mem);
	xsk_pool_dma_unmap(pool, 0);
	zcnic_xsk_count(zn, -1);
}

/**
 * zcnic_xsk_setup() - give a queue an AF_XDP pool, or take it away
 * @zn: the device; the caller holds the instance lock
 * @pool: the pool, or NULL
 * @queue: data pair
 *
 * Return: 0 or a negative errno; always 0 without a pool.
 */
int zcnic_xsk_setup(struct zcnic *zn, struct xsk_buff_pool *pool, u16 queue)
{
	struct zcnic_pair *pair;

	if (queue >= zn->pair_count)
		return -EINVAL;
	pair = &zn->pairs[queue];
	if (pool)
		return pair->xsk ? -EBUSY : zcnic_xsk_enable(pair, pool);
	if (pair->xsk)
		zcnic_xsk_disable(pair);
	return 0;
}
