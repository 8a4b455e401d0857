// SPDX-License-Identifier: GPL-2.0-only
#include "zcnic.h"

/**
 * zcnic_send_offloads() - tell the device which receive offloads are on
 * @zn: the device
 * @features: of the interface
 *
 * The checksum verdict always is: frames that the CPU can't read go up only with a good one, see
 * zcnic_rx_deliver(). With RXCSUM off the stack is not told about the others.
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
 * zcnic_send_rx_mode() - tell the device which addresses to let pass
 * @zn: the device
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
		/* more than the device can list */
		size = struct_size(request, addresses, 1);
		request->flags = cpu_to_le16(flags | ZCNIC_RX_MODE_PROMISC);
		request->count = cpu_to_le16(1);
		err = zcnic_command(zn, ZCNIC_CMD_RX_MODE, request, size, NULL,
				    0);
	}
	kfree(request);
	return err;
}

/**
 * zcnic_send_coalesce() - tell the device how long interrupts are put off
 * @zn: the device
 *
 * Return: as zcnic_command().
 */
int zcnic_send_coalesce(struct zcnic *zn)
{
	struct zcnic_coalesce request = {
		.rx_usecs = cpu_to_le16(zn->coalescing.rx_usecs),
		.rx_chains = cpu_to_le16(zn->coalescing.rx_frames),
		.tx_usecs = cpu_to_le16(zn->coalescing.tx_usecs),
		.tx_chains = cpu_to_le16(zn->coalescing.tx_frames),
	};

	/* a backend may know less than the one that was here when it was set */
	if (!(zn->features & BIT_ULL(ZCNIC_F_COALESCE)))
		return 0;
	return zcnic_command(zn, ZCNIC_CMD_COALESCE, &request, sizeof(request),
			     NULL, 0);
}
