// SPDX-License-Identifier: GPL-2.0-only
/*
 * Starting and stopping queues, and exchanging the memory of one receive queue
 * under traffic: the netdev queue management operations.
 *
 * Neither stop nor start depends on the backend. Without one, a stopped queue
 * leaves its chains in the ring, with references to pages and so to the pool,
 * until the next HELLO returns them. A start notes what is wanted, and the
 * replay after HELLO does it.
 *
 * Everything here runs under the instance lock.
 */
#include <net/netdev_lock.h>
#include <net/page_pool/helpers.h>

#include "zcnic_command.h"
#include "zcnic_queue.h"
#include "zcnic_xdp.h"

/* The longest that used elements may lag behind the answer to a stop */
#define ZCNIC_DRAIN_TIMEOUT	HZ

static bool zcnic_pair_drained(const struct zcnic_pair *pair)
{
	bool rx = pair->rx.started || !pair->rx.posted;
	bool tx = pair->tx.started || !pair->tx.used;

	return rx && tx;
}

/**
 * zcnic_pair_drain() - take back everything that the device has returned
 * @pair: the pair, its NAPI stopped; halves that are started are left alone
 *
 * Return: whether that was everything.
 */
bool zcnic_pair_drain(struct zcnic_pair *pair)
{
	unsigned long deadline = jiffies + ZCNIC_DRAIN_TIMEOUT;

	for (;;) {
		if (!pair->rx.started)
			zcnic_rx_drain(pair);
		if (!pair->tx.started)
			zcnic_tx_drain(pair);
		if (zcnic_pair_drained(pair))
			return true;
		if (virtqueue_is_broken(pair->rx.vq) ||
		    virtqueue_is_broken(pair->tx.vq) ||
		    time_after(jiffies, deadline))
			return false;
		usleep_range(500, 1000);
	}
}

static int zcnic_refused(struct zcnic_pair *pair, const char *what,
			 const char *command, int err)
{
	netdev_err(pair->zn->dev, "%s queue %u doesn't %s: %d\n", what,
		   pair->index, command, err);
	return err;
}

/*
 * Have the device use the receive queue; without a session, get ready for that.
 *
 * Return: 0, or the errno of a refusal. A refusal means that the device is not
 * in the state that the driver expects: unless it came during a replay, the
 * caller asks for a new session.
 */
static int zcnic_rx_start(struct zcnic_pair *pair)
{
	const struct zcnic_rx_mem *mem = &pair->rx.mem;
	struct zcnic_rxq_start request = {
		.queue = cpu_to_le16(pair->index),
		.shape = ZCNIC_RX_SHAPE_LINEAR,
		.header_size = cpu_to_le32(mem->header_size),
		.page_size = cpu_to_le32(mem->page_size),
		.hds_thresh = cpu_to_le32(mem->hds_thresh),
		.max_chains = min_t(u32, mem->max_chains, pair->zn->max_chains),
	};
	struct zcnic_rx *rx = &pair->rx;
	int err;

	/* the queue lost its memory in a restart, and the core has warned */
	if (!mem->header_pool && !mem->xsk)
		return 0;
	if (mem->header_pool)
		page_pool_enable_direct_recycling(mem->header_pool,
						  &pair->napi);
	if (mem->payload_pool) {
		request.shape = ZCNIC_RX_SHAPE_SPLIT;
		page_pool_enable_direct_recycling(mem->payload_pool,
						  &pair->napi);
	}
	zcnic_xdp_attach(pair);
	err = zcnic_command(pair->zn, ZCNIC_CMD_RXQ_START, &request,
			    sizeof(request), NULL, 0);
	if (zcnic_disconnected(err))
		return 0;
	if (err)
		return zcnic_refused(pair, "receive", "start", err);

	rx->started = true;
	rx->skipping = false;
	/* with too little memory, NAPI and the refill timer go on trying */
	zcnic_rx_fill(pair, GFP_KERNEL | __GFP_NOWARN);
	return 0;
}

static void zcnic_rx_stop_started(struct zcnic_pair *pair)
{
	struct zcnic_rx *rx = &pair->rx;
	struct zcnic *zn = pair->zn;
	int err;

	err = zcnic_queue_command(zn, ZCNIC_CMD_RXQ_STOP, pair->index);
	rx->started = false;
	if (err && !zcnic_disconnected(err)) {
		zcnic_refused(pair, "receive", "stop", err);
		zcnic_request_session(zn);
	} else if (!err && !zcnic_pair_drain(pair)) {
		netdev_err(zn->dev,
			   "receive queue %u stopped with %u chains out\n",
			   pair->index, rx->posted);
		zcnic_request_reset(zn);
	}
	if (rx->posted)
		zcnic_orphaned(zn);
}

/**
 * zcnic_rx_stop() - have the device return a receive queue's chains
 * @pair: the pair, its NAPI stopped
 *
 * Without a session they stay in the ring.
 */
void zcnic_rx_stop(struct zcnic_pair *pair)
{
	struct zcnic_rx *rx = &pair->rx;

	if (rx->started)
		zcnic_rx_stop_started(pair);
	zcnic_rx_drop_frame(rx);
	zcnic_xdp_detach(pair);
	if (rx->mem.header_pool)
		page_pool_disable_direct_recycling(rx->mem.header_pool);
	if (rx->mem.payload_pool)
		page_pool_disable_direct_recycling(rx->mem.payload_pool);
}

/* Return: as zcnic_rx_start(). */
static int zcnic_tx_start(struct zcnic_pair *pair)
{
	int err;

	err = zcnic_queue_command(pair->zn, ZCNIC_CMD_TXQ_START, pair->index);
	pair->tx.started = !err;
	pair->tx.progress_since = 0;
	if (zcnic_disconnected(err))
		return 0;
	if (err)
		return zcnic_refused(pair, "transmit", "start", err);
	return 0;
}

static void zcnic_tx_stop(struct zcnic_pair *pair)
{
	struct zcnic_tx *tx = &pair->tx;
	struct zcnic *zn = pair->zn;
	int err;

	if (tx->started) {
		err = zcnic_queue_command(zn, ZCNIC_CMD_TXQ_STOP, pair->index);
		tx->started = false;
		if (err && !zcnic_disconnected(err)) {
			zcnic_refused(pair, "transmit", "stop", err);
			zcnic_request_session(zn);
		} else if (!err && !zcnic_pair_drain(pair)) {
			zcnic_request_reset(zn);
		}
		if (tx->used)
			zcnic_orphaned(zn);
	}
	zcnic_tx_reset_accounting(pair);
}

/**
 * zcnic_pair_start() - start both queues of an open pair in the device
 * @pair: the pair, its NAPI stopped
 *
 * Transmit comes first: received frames are likely to be answered.
 *
 * Return: as zcnic_rx_start().
 */
int zcnic_pair_start(struct zcnic_pair *pair)
{
	int err;

	err = zcnic_tx_start(pair);
	if (err)
		return err;
	return zcnic_rx_start(pair);
}

static void zcnic_pair_close(struct zcnic_pair *pair)
{
	struct net_device *dev = pair->zn->dev;
	struct netdev_queue *txq;

	txq = netdev_get_tx_queue(dev, pair->index);
	netif_queue_set_napi(dev, pair->index, NETDEV_QUEUE_TYPE_RX, NULL);
	netif_queue_set_napi(dev, pair->index, NETDEV_QUEUE_TYPE_TX, NULL);
	zcnic_napi_stop(pair);
	/* from now on zcnic_xdp_xmit() sends no frames */
	__netif_tx_lock_bh(txq);
	WRITE_ONCE(pair->open, false);
	__netif_tx_unlock_bh(txq);
	zcnic_rx_stop(pair);
	zcnic_tx_stop(pair);
	zcnic_rx_mem_free(&pair->rx.mem);
	/* the caller waits for a grace period before the instance is reused */
	__netif_napi_del_locked(&pair->napi);
}

static int zcnic_pair_open(struct zcnic_pair *pair)
{
	struct netdev_queue_config qcfg;
	struct zcnic *zn = pair->zn;
	int err;

	pair->rx.limit = zn->rx_pending;
	pair->tx.limit = zn->tx_pending;
	/* a memory provider stays bound while the interface is down */
	netdev_queue_config(zn->dev, pair->index, &qcfg);
	err = zcnic_rx_mem_alloc(pair, zn->rx_pending, qcfg.rx_page_size,
				 zn->split, zn->hds_thresh, &pair->rx.mem);
	if (err)
		return err;
	netif_napi_add_config_locked(zn->dev, &pair->napi, zcnic_poll,
				     pair->index);
	zcnic_napi_set_irq(pair);
	WRITE_ONCE(pair->open, true);
	if (zcnic_pair_start(pair))
		zcnic_request_session(zn);
	netif_queue_set_napi(zn->dev, pair->index, NETDEV_QUEUE_TYPE_RX,
			     &pair->napi);
	netif_queue_set_napi(zn->dev, pair->index, NETDEV_QUEUE_TYPE_TX,
			     &pair->napi);
	zcnic_napi_start(pair);
	return 0;
}

/**
 * zcnic_pairs_open() - open pairs: memory, queues, NAPI
 * @zn: the device
 * @first: the first pair
 * @end: the one after the last
 *
 * Return: 0, or a negative errno with none of them open.
 */
int zcnic_pairs_open(struct zcnic *zn, u16 first, u16 end)
{
	int err;
	u16 i;

	for (i = first; i < end; i++) {
		err = zcnic_pair_open(&zn->pairs[i]);
		if (err) {
			zcnic_pairs_close(zn, first, i);
			return err;
		}
	}
	return 0;
}

/**
 * zcnic_pairs_close() - close pairs, which can't fail
 * @zn: the device
 * @first: the first pair; none of their transmit queues is in use any more
 * @end: the one after the last
 */
void zcnic_pairs_close(struct zcnic *zn, u16 first, u16 end)
{
	u16 i;

	for (i = first; i < end; i++)
		zcnic_pair_close(&zn->pairs[i]);
	synchronize_net();
}

/**
 * zcnic_pair_exchange() - restart a receive queue with other memory
 * @pair: the pair, open
 * @mem: the new memory; on return, the old one
 */
void zcnic_pair_exchange(struct zcnic_pair *pair, struct zcnic_rx_mem *mem)
{
	zcnic_napi_stop(pair);
	zcnic_rx_stop(pair);
	swap(pair->rx.mem, *mem);
	pair->rx.limit = pair->zn->rx_pending;
	if (zcnic_rx_start(pair))
		zcnic_request_session(pair->zn);
	zcnic_napi_start(pair);
}

/**
 * zcnic_pairs_reconfigure() - give all receive queues memory of a new shape
 * @zn: the device, its interface up
 * @rx_pending: chains to post at most
 * @split: chains are split
 * @hds_thresh: for split chains
 *
 * All new memory is allocated before the first queue is stopped.
 *
 * Return: 0, or a negative errno with nothing changed.
 */
int zcnic_pairs_reconfigure(struct zcnic *zn, u32 rx_pending, bool split,
			    u32 hds_thresh)
{
	struct netdev_queue_config qcfg;
	struct zcnic_rx_mem *mems;
	int err = 0;
	u16 i;

	mems = kvcalloc(zn->channels, sizeof(*mems), GFP_KERNEL);
	if (!mems)
		return -ENOMEM;
	for (i = 0; i < zn->channels && !err; i++) {
		netdev_queue_config(zn->dev, i, &qcfg);
		err = zcnic_rx_mem_alloc(&zn->pairs[i], rx_pending,
					 qcfg.rx_page_size, split, hds_thresh,
					 &mems[i]);
	}
	if (err)
		goto out;

	zn->rx_pending = rx_pending;
	for (i = 0; i < zn->channels; i++)
		zcnic_pair_exchange(&zn->pairs[i], &mems[i]);
out:
	for (i = 0; i < zn->channels; i++)
		zcnic_rx_mem_free(&mems[i]);
	kvfree(mems);
	return err;
}

/**
 * zcnic_pairs_leave_xdp() - give receive queues buffers for the stack again
 * @zn: the device, without an XDP program; the caller holds RTNL as well
 *
 * This can fail for want of memory, but a program can't refuse to go. The
 * queues then keep XDP's buffers, which the stack can use as well, and the
 * service work tries again.
 */
void zcnic_pairs_leave_xdp(struct zcnic *zn)
{
	int err = 0;

	zn->xdp = false;
	if (netif_running(zn->dev))
		err = zcnic_pairs_reconfigure(zn, zn->rx_pending, zn->split,
					      zn->hds_thresh);
	zn->xdp = err;
	zcnic_update_features(zn);
}

static int zcnic_queue_mem_alloc(struct net_device *dev,
				 struct netdev_queue_config *qcfg, void *mem,
				 int index)
{
	struct zcnic *zn = netdev_priv(dev);

	return zcnic_rx_mem_alloc(&zn->pairs[index], zn->rx_pending,
				  qcfg->rx_page_size, zn->split, zn->hds_thresh,
				  mem);
}

static void zcnic_queue_mem_free(struct net_device *dev, void *mem)
{
	zcnic_rx_mem_free(mem);
}

static int zcnic_queue_start(struct net_device *dev,
			     struct netdev_queue_config *qcfg, void *mem,
			     int index)
{
	struct zcnic *zn = netdev_priv(dev);
	struct zcnic_pair *pair;

	pair = &zn->pairs[index];
	/*
	 * This can't fail: the core would give up a queue that doesn't start
	 * with its old memory either.
	 */
	memcpy(&pair->rx.mem, mem, sizeof(pair->rx.mem));
	if (zcnic_rx_start(pair))
		zcnic_request_session(zn);
	zcnic_napi_start(pair);
	return 0;
}

static int zcnic_queue_stop(struct net_device *dev, void *mem, int index)
{
	struct zcnic *zn = netdev_priv(dev);
	struct zcnic_pair *pair;

	pair = &zn->pairs[index];
	/*
	 * A live NAPI would post again what RXQ_STOP returns. Transmit
	 * completions wait meanwhile.
	 */
	zcnic_napi_stop(pair);
	zcnic_rx_stop(pair);
	memcpy(mem, &pair->rx.mem, sizeof(pair->rx.mem));
	memset(&pair->rx.mem, 0, sizeof(pair->rx.mem));
	return 0;
}

static void zcnic_default_qcfg(struct net_device *dev,
			       struct netdev_queue_config *qcfg)
{
	qcfg->rx_page_size = PAGE_SIZE;
}

static int zcnic_validate_qcfg(struct net_device *dev,
			       struct netdev_queue_config *qcfg,
			       struct netlink_ext_ack *extack)
{
	struct zcnic *zn = netdev_priv(dev);

	if (!is_power_of_2(qcfg->rx_page_size) ||
	    qcfg->rx_page_size < PAGE_SIZE ||
	    qcfg->rx_page_size > zn->max_page_size) {
		NL_SET_ERR_MSG_FMT_MOD(extack,
				       "rx page size %u: a power of two from %lu to %u",
				       qcfg->rx_page_size, PAGE_SIZE,
				       zn->max_page_size);
		return -ERANGE;
	}
	return 0;
}

static struct device *zcnic_queue_get_dma_dev(struct net_device *dev, int index)
{
	struct zcnic *zn = netdev_priv(dev);

	return zn->dma_dev;
}

const struct netdev_queue_mgmt_ops zcnic_queue_mgmt_ops = {
	.ndo_queue_mem_size	= sizeof(struct zcnic_rx_mem),
	.ndo_queue_mem_alloc	= zcnic_queue_mem_alloc,
	.ndo_queue_mem_free	= zcnic_queue_mem_free,
	.ndo_queue_start	= zcnic_queue_start,
	.ndo_queue_stop		= zcnic_queue_stop,
	.ndo_default_qcfg	= zcnic_default_qcfg,
	.ndo_validate_qcfg	= zcnic_validate_qcfg,
	.ndo_queue_get_dma_dev	= zcnic_queue_get_dma_dev,
	.supported_params	= QCFG_RX_PAGE_SIZE,
};
