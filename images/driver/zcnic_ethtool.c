// SPDX-License-Identifier: GPL-2.0-only
/* Rings, interrupt moderation, and the table of all ethtool operations. */
#include <linux/ethtool_netlink.h>
#include <net/netdev_lock.h>

#include "zcnic_command.h"
#include "zcnic_netdev.h"
#include "zcnic_queue.h"
#include "zcnic_stats.h"
#include "zcnic_xdp.h"

static void zcnic_get_drvinfo(struct net_device *dev,
			      struct ethtool_drvinfo *info)
{
	struct zcnic *zn = netdev_priv(dev);

	strscpy(info->driver, KBUILD_MODNAME);
	strscpy(info->bus_info, dev_name(zn->dma_dev));
}

static int zcnic_get_link_ksettings(struct net_device *dev,
				    struct ethtool_link_ksettings *settings)
{
	struct zcnic *zn = netdev_priv(dev);

	settings->base.speed = zn->speed;
	settings->base.duplex = zn->duplex;
	settings->base.port = PORT_OTHER;
	return 0;
}

/* As virtio_net: numbers for bonding and the like, frames are not slower. */
static int
zcnic_set_link_ksettings(struct net_device *dev,
			 const struct ethtool_link_ksettings *settings)
{
	struct zcnic *zn = netdev_priv(dev);

	return ethtool_virtdev_set_link_ksettings(dev, settings, &zn->speed,
						  &zn->duplex);
}

static void zcnic_get_ringparam(struct net_device *dev,
				struct ethtool_ringparam *ring,
				struct kernel_ethtool_ringparam *kernel_ring,
				struct netlink_ext_ack *extack)
{
	struct zcnic *zn = netdev_priv(dev);
	u32 max_headers;

	max_headers = zn->max_header_size - sizeof(struct zcnic_rx_header);
	ring->rx_max_pending = zn->rx_ring_size / 2;
	ring->rx_pending = zn->rx_pending;
	ring->tx_max_pending = zn->tx_ring_size;
	ring->tx_pending = zn->tx_pending;
	kernel_ring->tcp_data_split = ETHTOOL_TCP_DATA_SPLIT_DISABLED;
	if (zn->split)
		kernel_ring->tcp_data_split = ETHTOOL_TCP_DATA_SPLIT_ENABLED;
	kernel_ring->hds_thresh = zn->hds_thresh;
	kernel_ring->hds_thresh_max = min(max_headers, ZCNIC_MAX_HDS_THRESH);
}

static void zcnic_set_tx_limit(struct zcnic *zn, u32 limit)
{
	u16 i;

	for (i = 0; i < zn->channels; i++) {
		struct netdev_queue *txq = netdev_get_tx_queue(zn->dev, i);

		__netif_tx_lock_bh(txq);
		zn->pairs[i].tx.limit = limit;
		/* it may have room now; waking also runs the qdisc */
		if (netif_running(zn->dev) && zn->present)
			netif_wake_subqueue(zn->dev, i);
		__netif_tx_unlock_bh(txq);
	}
}

/* Whether device and driver can do what is asked for */
static int zcnic_check_ringparam(const struct zcnic *zn,
				 const struct ethtool_ringparam *ring,
				 bool split, struct netlink_ext_ack *extack)
{
	if (ring->rx_pending < ZCNIC_MIN_RX_PENDING) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "rx is at least %u",
				       ZCNIC_MIN_RX_PENDING);
		return -EINVAL;
	}
	if (ring->tx_pending < ZCNIC_MIN_TX_PENDING) {
		NL_SET_ERR_MSG_FMT_MOD(extack,
				       "tx is at least %lu: a frame can take %lu descriptors",
				       (unsigned long)ZCNIC_MIN_TX_PENDING,
				       (unsigned long)ZCNIC_TX_DESCS);
		return -EINVAL;
	}
	if (split && !(zn->features & BIT_ULL(ZCNIC_F_SPLIT))) {
		NL_SET_ERR_MSG_MOD(extack, "the device can't split frames");
		return -EOPNOTSUPP;
	}
	return 0;
}

/*
 * The virtual machine monitor sets the size of a virtqueue; these are limits on
 * how much of it is used. Both rings may be set in the same call, and either
 * all of it takes effect or none.
 */
static int zcnic_set_ringparam(struct net_device *dev,
			       struct ethtool_ringparam *ring,
			       struct kernel_ethtool_ringparam *kernel_ring,
			       struct netlink_ext_ack *extack)
{
	u32 hds_thresh = kernel_ring->hds_thresh;
	struct zcnic *zn = netdev_priv(dev);
	bool reconfigure, split;
	int err;

	split = kernel_ring->tcp_data_split == ETHTOOL_TCP_DATA_SPLIT_ENABLED;
	err = zcnic_check_ringparam(zn, ring, split, extack);
	if (err)
		return err;

	reconfigure = ring->rx_pending != zn->rx_pending ||
		      split != zn->split ||
		      (split && hds_thresh != zn->hds_thresh);
	if (reconfigure && netif_running(dev)) {
		err = zcnic_pairs_reconfigure(zn, ring->rx_pending, split,
					      hds_thresh);
		if (err)
			return err;
	}
	zn->rx_pending = ring->rx_pending;
	zn->split = split;
	zn->hds_thresh = hds_thresh;
	if (ring->tx_pending != zn->tx_pending) {
		zn->tx_pending = ring->tx_pending;
		zcnic_set_tx_limit(zn, zn->tx_pending);
		zcnic_xsk_resume(zn);
	}
	return 0;
}

static int zcnic_get_coalesce(struct net_device *dev,
			      struct ethtool_coalesce *coalesce,
			      struct kernel_ethtool_coalesce *kernel_coalesce,
			      struct netlink_ext_ack *extack)
{
	struct zcnic *zn = netdev_priv(dev);

	coalesce->rx_coalesce_usecs = zn->coalescing.rx_usecs;
	coalesce->rx_max_coalesced_frames = zn->coalescing.rx_frames;
	coalesce->tx_coalesce_usecs = zn->coalescing.tx_usecs;
	coalesce->tx_max_coalesced_frames = zn->coalescing.tx_frames;
	return 0;
}

/* The device counts chains, of which a frame may take several. */
static int zcnic_set_coalesce(struct net_device *dev,
			      struct ethtool_coalesce *coalesce,
			      struct kernel_ethtool_coalesce *kernel_coalesce,
			      struct netlink_ext_ack *extack)
{
	struct zcnic *zn = netdev_priv(dev);
	struct zcnic_coalescing was;
	int err;

	was = zn->coalescing;
	if (!(zn->features & BIT_ULL(ZCNIC_F_COALESCE)))
		return -EOPNOTSUPP;
	if (coalesce->rx_coalesce_usecs > U16_MAX ||
	    coalesce->rx_max_coalesced_frames > U16_MAX ||
	    coalesce->tx_coalesce_usecs > U16_MAX ||
	    coalesce->tx_max_coalesced_frames > U16_MAX) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "at most %u", U16_MAX);
		return -ERANGE;
	}
	zn->coalescing = (struct zcnic_coalescing) {
		.rx_usecs = coalesce->rx_coalesce_usecs,
		.rx_frames = coalesce->rx_max_coalesced_frames,
		.tx_usecs = coalesce->tx_coalesce_usecs,
		.tx_frames = coalesce->tx_max_coalesced_frames,
	};
	err = zcnic_send_coalesce(zn);
	if (err && !zcnic_disconnected(err)) {
		zn->coalescing = was;
		return err;
	}
	return 0;
}

static u32 zcnic_get_rx_ring_count(struct net_device *dev)
{
	struct zcnic *zn = netdev_priv(dev);

	return zn->channels;
}

const struct ethtool_ops zcnic_ethtool_ops = {
	.supported_input_xfrm	= RXH_XFRM_SYM_XOR | RXH_XFRM_SYM_OR_XOR,
	.rxfh_per_ctx_fields	= true,
	.rxfh_per_ctx_key	= true,
	.cap_rss_rxnfc_adds	= true,
	.rxfh_indir_space	= ZCNIC_MAX_RSS_TABLE,
	.rxfh_key_space		= ZCNIC_RSS_KEY_SIZE,
	.rxfh_max_num_contexts	= ZCNIC_MAX_RSS_CONTEXTS,
	.supported_coalesce_params = ETHTOOL_COALESCE_USECS |
				     ETHTOOL_COALESCE_MAX_FRAMES,
	.supported_ring_params	= ETHTOOL_RING_USE_TCP_DATA_SPLIT |
				  ETHTOOL_RING_USE_HDS_THRS,
	/* for netif_set_real_num_queues() and ethtool_op_get_link() */
	.op_needs_rtnl		= ETHTOOL_OP_NEEDS_RTNL_SCHANNELS |
				  ETHTOOL_OP_NEEDS_RTNL_GLINK,
	.get_drvinfo		= zcnic_get_drvinfo,
	.get_link		= ethtool_op_get_link,
	.get_link_ksettings	= zcnic_get_link_ksettings,
	.set_link_ksettings	= zcnic_set_link_ksettings,
	.get_channels		= zcnic_get_channels,
	.set_channels		= zcnic_set_channels,
	.get_ringparam		= zcnic_get_ringparam,
	.set_ringparam		= zcnic_set_ringparam,
	.get_coalesce		= zcnic_get_coalesce,
	.set_coalesce		= zcnic_set_coalesce,
	.get_rx_ring_count	= zcnic_get_rx_ring_count,
	.get_rxfh_key_size	= zcnic_get_rxfh_key_size,
	.get_rxfh_indir_size	= zcnic_get_rxfh_indir_size,
	.get_rxfh		= zcnic_get_rxfh,
	.set_rxfh		= zcnic_set_rxfh,
	.get_rxfh_fields	= zcnic_get_rxfh_fields,
	.set_rxfh_fields	= zcnic_set_rxfh_fields,
	.create_rxfh_context	= zcnic_create_rxfh_context,
	.modify_rxfh_context	= zcnic_modify_rxfh_context,
	.remove_rxfh_context	= zcnic_remove_rxfh_context,
	.get_rxnfc		= zcnic_get_rxnfc,
	.set_rxnfc		= zcnic_set_rxnfc,
	.get_sset_count		= zcnic_get_sset_count,
	.get_strings		= zcnic_get_strings,
	.get_ethtool_stats	= zcnic_get_ethtool_stats,
	.get_ts_info		= zcnic_get_ts_info,
	.get_ts_stats		= zcnic_get_ts_stats,
};
