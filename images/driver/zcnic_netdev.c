// SPDX-License-Identifier: GPL-2.0-only
/* The network device operations, besides transmit and statistics. */
#include <linux/if_vlan.h>
#include <net/netdev_lock.h>

#include "zcnic_command.h"
#include "zcnic_netdev.h"
#include "zcnic_queue.h"
#include "zcnic_session.h"
#include "zcnic_stats.h"
#include "zcnic_xdp.h"

/* The device parses this much of a sent frame's headers */
#define ZCNIC_MAX_TX_HEADERS	256
/* TCP's, the longest of the L4 headers with a checksum to insert */
#define ZCNIC_MAX_L4_HEADER	60
/* The most segments that the device makes of a chain */
#define ZCNIC_MAX_TX_SEGMENTS	8192

static int zcnic_open(struct net_device *dev)
{
	struct zcnic *zn = netdev_priv(dev);
	int err;

	err = zcnic_pairs_open(zn, 0, zn->channels);
	if (err)
		return err;
	if (zn->present)
		netif_tx_start_all_queues(dev);
	zcnic_xsk_resume(zn);
	zcnic_service_schedule(zn);
	return 0;
}

static int zcnic_stop(struct net_device *dev)
{
	struct zcnic *zn = netdev_priv(dev);

	netif_tx_disable(dev);
	zcnic_pairs_close(zn, 0, zn->channels);
	return 0;
}

static int zcnic_set_rx_mode(struct net_device *dev,
			     struct netdev_hw_addr_list *uc,
			     struct netdev_hw_addr_list *mc)
{
	struct zcnic *zn = netdev_priv(dev);
	struct zcnic_address *addresses;
	struct netdev_hw_addr *ha;
	u16 count = 0;
	int err;

	zn->rx_mode = 0;
	if (dev->flags & IFF_PROMISC)
		zn->rx_mode |= ZCNIC_RX_MODE_PROMISC;
	if (dev->flags & IFF_ALLMULTI)
		zn->rx_mode |= ZCNIC_RX_MODE_ALLMULTI;
	addresses = kcalloc(uc->count + mc->count, sizeof(*addresses),
			    GFP_KERNEL);
	if (!addresses)
		return -ENOMEM;
	netdev_hw_addr_list_for_each(ha, uc)
		ether_addr_copy(addresses[count++].octets, ha->addr);
	netdev_hw_addr_list_for_each(ha, mc)
		ether_addr_copy(addresses[count++].octets, ha->addr);
	kfree(zn->addresses);
	zn->addresses = addresses;
	zn->address_count = count;

	err = zcnic_send_rx_mode(zn);
	/* without a session the next one gets it */
	return zcnic_disconnected(err) ? 0 : err;
}

static int zcnic_set_mac_address(struct net_device *dev, void *address)
{
	struct zcnic *zn = netdev_priv(dev);
	u8 was[ETH_ALEN];
	int err;

	ether_addr_copy(was, dev->dev_addr);
	err = eth_mac_addr(dev, address);
	if (err)
		return err;
	err = zcnic_send_rx_mode(zn);
	if (!err || zcnic_disconnected(err))
		return 0;
	eth_hw_addr_set(dev, was);
	return err;
}

static netdev_features_t zcnic_netdev_features(u64 known)
{
	netdev_features_t features = 0;

	if (known & BIT_ULL(ZCNIC_F_TX_CSUM))
		features |= NETIF_F_HW_CSUM;
	if (known & BIT_ULL(ZCNIC_F_TSO4))
		features |= NETIF_F_TSO;
	if (known & BIT_ULL(ZCNIC_F_TSO6))
		features |= NETIF_F_TSO6;
	if (known & BIT_ULL(ZCNIC_F_USO))
		features |= NETIF_F_GSO_UDP_L4;
	if (known & BIT_ULL(ZCNIC_F_RX_CSUM))
		features |= NETIF_F_RXCSUM;
	if (known & BIT_ULL(ZCNIC_F_RX_HASH))
		features |= NETIF_F_RXHASH;
	if (known & BIT_ULL(ZCNIC_F_GRO))
		features |= NETIF_F_GRO_HW;
	if (known & BIT_ULL(ZCNIC_F_VLAN))
		features |= NETIF_F_HW_VLAN_CTAG_RX;
	if (known & BIT_ULL(ZCNIC_F_RULES))
		features |= NETIF_F_NTUPLE;
	return features;
}

static netdev_features_t zcnic_fix_features(struct net_device *dev,
					    netdev_features_t features)
{
	struct zcnic *zn = netdev_priv(dev);
	u64 lacking;

	lacking = ZCNIC_FEATURES & ~zn->features;
	/* XDP programs and AF_XDP get frames as they were on the wire */
	if (zn->xdp || zn->xsk_pools)
		features &= ~NETIF_F_GRO_HW;
	/* a backend may have fewer features than the one at probe */
	return features & ~zcnic_netdev_features(lacking);
}

/* The size of linear buffers depends on hardware GRO. */
static int zcnic_set_gro(struct zcnic *zn, bool on)
{
	bool was = zn->gro;
	int err = 0;

	zn->gro = on;
	if (on != was && !zn->split && !zn->xdp && netif_running(zn->dev))
		err = zcnic_pairs_reconfigure(zn, zn->rx_pending, zn->split,
					      zn->hds_thresh);
	if (err)
		zn->gro = was;
	return err;
}

static int zcnic_set_features(struct net_device *dev,
			      netdev_features_t features)
{
	struct zcnic *zn = netdev_priv(dev);
	int err = 0;

	if (dev->features & ~features & NETIF_F_NTUPLE)
		err = zcnic_rules_flush(zn);
	if (!err)
		err = zcnic_set_gro(zn, features & NETIF_F_GRO_HW);
	if (!err)
		err = zcnic_send_offloads(zn, features);
	if (err && !zcnic_disconnected(err)) {
		zcnic_set_gro(zn, dev->features & NETIF_F_GRO_HW);
		return err;
	}
	return 0;
}

static netdev_features_t zcnic_features_check(struct sk_buff *skb,
					      struct net_device *dev,
					      netdev_features_t features)
{
	if (skb->ip_summed == CHECKSUM_PARTIAL) {
		int headers = skb_checksum_start_offset(skb) +
			      ZCNIC_MAX_L4_HEADER;

		if (headers > ZCNIC_MAX_TX_HEADERS)
			features &= ~(NETIF_F_CSUM_MASK | NETIF_F_GSO_MASK);
	}
	return vlan_features_check(skb, features);
}

static void zcnic_tx_timeout(struct net_device *dev, unsigned int queue)
{
	struct zcnic *zn = netdev_priv(dev);

	/* NAPI may be deferred for longer: only the ring tells */
	if (zcnic_tx_poll(&zn->pairs[queue], 1))
		return;
	netdev_err(dev, "transmit queue %u made no progress\n", queue);
	zcnic_request_reset(zn);
}

static const struct net_device_ops zcnic_netdev_ops = {
	.ndo_open		= zcnic_open,
	.ndo_stop		= zcnic_stop,
	.ndo_start_xmit		= zcnic_start_xmit,
	.ndo_features_check	= zcnic_features_check,
	.ndo_set_rx_mode_async	= zcnic_set_rx_mode,
	.ndo_set_mac_address	= zcnic_set_mac_address,
	.ndo_change_mtu		= zcnic_change_mtu,
	.ndo_validate_addr	= eth_validate_addr,
	.ndo_tx_timeout		= zcnic_tx_timeout,
	.ndo_get_stats64	= zcnic_get_stats64,
	.ndo_fix_features	= zcnic_fix_features,
	.ndo_set_features	= zcnic_set_features,
	.ndo_bpf		= zcnic_bpf,
	.ndo_xdp_xmit		= zcnic_xdp_xmit,
	.ndo_xsk_wakeup		= zcnic_xsk_wakeup,
	.ndo_hwtstamp_get	= zcnic_hwtstamp_get,
	.ndo_hwtstamp_set	= zcnic_hwtstamp_set,
};

/**
 * zcnic_netdev_setup() - set operations and defaults
 * @zn: the device, its rings known
 */
void zcnic_netdev_setup(struct zcnic *zn)
{
	struct net_device *dev = zn->dev;

	dev->netdev_ops = &zcnic_netdev_ops;
	dev->ethtool_ops = &zcnic_ethtool_ops;
	dev->stat_ops = &zcnic_stat_ops;
	dev->queue_mgmt_ops = &zcnic_queue_mgmt_ops;
	dev->priv_flags |= IFF_UNICAST_FLT | IFF_LIVE_ADDR_CHANGE;
	dev->netmem_tx = NETMEM_TX_DMA;
	dev->xdp_features = NETDEV_XDP_ACT_BASIC |
			    NETDEV_XDP_ACT_REDIRECT |
			    NETDEV_XDP_ACT_RX_SG |
			    NETDEV_XDP_ACT_NDO_XMIT |
			    NETDEV_XDP_ACT_NDO_XMIT_SG |
			    NETDEV_XDP_ACT_XSK_ZEROCOPY;
	dev->xdp_zc_max_segs = ZCNIC_XSK_MAX_SEGMENTS;
	dev->xdp_metadata_ops = &zcnic_xdp_metadata_ops;
	dev->watchdog_timeo = 10 * HZ;

	/* until HELLO */
	zn->features = ZCNIC_FEATURES;
	zn->max_page_size = SZ_64K;
	zn->max_header_size = SZ_2K;
	zn->max_frame = ETH_FRAME_LEN + VLAN_HLEN;
	zn->max_rules = ZCNIC_MAX_RULES;
	zn->max_rss_contexts = ZCNIC_MAX_RSS_CONTEXTS;
	zn->max_rss_table = ZCNIC_MAX_RSS_TABLE;
	zn->max_chains = MAX_SKB_FRAGS;

	/* half: a split chain takes two descriptors, a linear one counts so */
	zn->rx_pending = zn->rx_ring_size / 2;
	zn->tx_pending = zn->tx_ring_size;
	zn->channels = min_t(u16, zn->pair_count, num_online_cpus());
	netif_set_real_num_tx_queues(dev, zn->channels);
	netif_set_real_num_rx_queues(dev, zn->channels);
	dev->cfg->hds_thresh = 0;
}

/**
 * zcnic_set_hw_features() - announce the interface's features
 * @zn: the device, after the first HELLO or its failure
 */
void zcnic_set_hw_features(struct zcnic *zn)
{
	struct net_device *dev = zn->dev;

	dev->hw_features = zcnic_netdev_features(zn->features) | NETIF_F_SG;
	/* off by default: they change what packet sockets see of a frame */
	dev->features = dev->hw_features | NETIF_F_HIGHDMA;
	dev->features &= ~(NETIF_F_GRO_HW | NETIF_F_HW_VLAN_CTAG_RX);
	dev->vlan_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO |
			     NETIF_F_TSO6 | NETIF_F_GSO_UDP_L4 |
			     NETIF_F_HIGHDMA;
	dev->vlan_features &= dev->features;
	netif_set_tso_max_segs(dev, ZCNIC_MAX_TX_SEGMENTS);
	zcnic_set_max_mtu(zn);
}
