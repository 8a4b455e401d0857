// SPDX-License-Identifier: GPL-2.0-only
/*
 * Settings of the interface that are one command each: sent when they change,
 * and to every new session.
 */
#include "zcnic_command.h"

/**
 * zcnic_send_offloads() - switch the device's receive offloads
 * @zn: the device
 * @features: of the interface
 *
 * Checksums are verified whatever @features are: a frame that the CPU can't
 * read goes to the stack only if its checksum is good, see
 * zcnic_rx_deliver_skb(). With RXCSUM off the stack does not learn about other
 * frames' checksums.
 *
 * Return: as zcnic_command().
 */
int zcnic_send_offloads(struct zcnic *zn, netdev_features_t features)
{
	u64 on = zn->features & BIT_ULL(ZCNIC_F_RX_CSUM);
	struct zcnic_offloads request = {};

	if (features & NETIF_F_RXHASH)
		on |= zn->features & BIT_ULL(ZCNIC_F_RX_HASH);
	if (features & NETIF_F_GRO_HW)
		on |= zn->features & BIT_ULL(ZCNIC_F_GRO);
	if (zn->rx_filter != HWTSTAMP_FILTER_NONE)
		on |= zn->features & BIT_ULL(ZCNIC_F_TIMESTAMP);
	if (features & NETIF_F_HW_VLAN_CTAG_RX)
		on |= zn->features & BIT_ULL(ZCNIC_F_VLAN);
	request.features[0] = cpu_to_le64(on);
	return zcnic_command(zn, ZCNIC_CMD_OFFLOADS, &request, sizeof(request),
			     NULL, 0);
}

/**
 * zcnic_send_rx_mode() - set the addresses that the device lets pass
 * @zn: the device
 *
 * More addresses than fit into a command, or than the device can list, make it
 * promiscuous.
 *
 * Return: as zcnic_command().
 */
int zcnic_send_rx_mode(struct zcnic *zn)
{
	struct zcnic_rx_mode *request;
	u16 count = zn->address_count;
	u16 flags = zn->rx_mode;
	size_t size;
	int err;

	size = struct_size(request, addresses, count + 1);
	if (size > ZCNIC_MAX_REQUEST) {
		flags |= ZCNIC_RX_MODE_PROMISC;
		count = 0;
		size = struct_size(request, addresses, 1);
	}
	request = kzalloc(size, GFP_KERNEL);
	if (!request)
		return -ENOMEM;
	request->flags = cpu_to_le16(flags);
	request->count = cpu_to_le16(count + 1);
	ether_addr_copy(request->addresses[0].octets, zn->dev->dev_addr);
	memcpy(&request->addresses[1], zn->addresses,
	       count * sizeof(*zn->addresses));
	err = zcnic_command(zn, ZCNIC_CMD_RX_MODE, request, size, NULL, 0);
	if (err == -ENOSPC) {
		size = struct_size(request, addresses, 1);
		request->flags = cpu_to_le16(flags | ZCNIC_RX_MODE_PROMISC);
		request->count = cpu_to_le16(1);
		err = zcnic_command(zn, ZCNIC_CMD_RX_MODE, request, size,
				    NULL, 0);
	}
	kfree(request);
	return err;
}

/**
 * zcnic_send_mtu() - have the device drop longer frames
 * @zn: the device
 * @mtu: bytes behind the Ethernet header and its tags
 *
 * Return: as zcnic_command(); 0 if the device takes frames of any length.
 */
int zcnic_send_mtu(struct zcnic *zn, u32 mtu)
{
	struct zcnic_mtu request = { .mtu = cpu_to_le32(mtu) };

	if (!(zn->features & BIT_ULL(ZCNIC_F_MTU)))
		return 0;
	return zcnic_command(zn, ZCNIC_CMD_MTU, &request, sizeof(request),
			     NULL, 0);
}

/**
 * zcnic_send_coalesce() - set the device's interrupt moderation
 * @zn: the device
 *
 * Return: as zcnic_command(); 0 if the device has no moderation.
 */
int zcnic_send_coalesce(struct zcnic *zn)
{
	struct zcnic_coalesce request = {
		.rx_usecs = cpu_to_le16(zn->coalescing.rx_usecs),
		.rx_chains = cpu_to_le16(zn->coalescing.rx_frames),
		.tx_usecs = cpu_to_le16(zn->coalescing.tx_usecs),
		.tx_chains = cpu_to_le16(zn->coalescing.tx_frames),
	};

	/* a backend may have fewer features than the one it replaced */
	if (!(zn->features & BIT_ULL(ZCNIC_F_COALESCE)))
		return 0;
	return zcnic_command(zn, ZCNIC_CMD_COALESCE, &request, sizeof(request),
			     NULL, 0);
}

/**
 * zcnic_update_features() - have the core ask zcnic_fix_features() again
 * @zn: the device; the caller holds RTNL and the instance lock, or the
 *	interface is not registered yet
 */
void zcnic_update_features(struct zcnic *zn)
{
	if (zn->dev->reg_state == NETREG_REGISTERED)
		netdev_update_features(zn->dev);
}
