// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hardware GRO: frames that the device coalesced. The stack gets them as its
 * own GRO would have made them: they can be segmented again, and have a partial
 * checksum.
 */
#include <linux/if_vlan.h>
#include <net/ip6_checksum.h>
#include <net/tcp.h>

#include "zcnic_rx.h"

/* Offset and Ethernet type of the outermost IP header */
static u32 zcnic_ip_offset(const struct sk_buff *skb, __be16 *protocol)
{
	const struct vlan_hdr *vlan;
	u32 offset = ETH_HLEN;

	*protocol = ((struct ethhdr *)skb->data)->h_proto;
	while (eth_type_vlan(*protocol) &&
	       offset + VLAN_HLEN <= skb_headlen(skb)) {
		vlan = (const void *)(skb->data + offset);
		*protocol = vlan->h_vlan_encapsulated_proto;
		offset += VLAN_HLEN;
	}
	return offset;
}

/* Describe a tunnel, if the header at @l3 is not the outermost one. */
static bool zcnic_gro_tunnel(struct sk_buff *skb, u32 l3, u32 l4,
			     __be16 inner_protocol)
{
	__be16 protocol;
	u32 outer;

	outer = zcnic_ip_offset(skb, &protocol);
	if (outer == l3)
		return true;
	if (protocol == htons(ETH_P_IP) && outer + sizeof(struct iphdr) <= l3)
		skb_shinfo(skb)->gso_type |= SKB_GSO_IPXIP4;
	else if (protocol == htons(ETH_P_IPV6) &&
		 outer + sizeof(struct ipv6hdr) <= l3)
		skb_shinfo(skb)->gso_type |= SKB_GSO_IPXIP6;
	else
		return false;
	skb->encapsulation = 1;
	skb_set_inner_network_header(skb, l3);
	skb_set_inner_transport_header(skb, l4);
	skb_set_inner_protocol(skb, inner_protocol);
	return true;
}

/*
 * Make the checksum of a frame, which the device verified, a partial one.
 *
 * Return: the Ethernet type of the IP header at @l3, 0 if it is not there.
 */
static __be16 zcnic_gro_checksum(struct sk_buff *skb, u8 gso_type, u32 l3,
				 u32 l4)
{
	struct tcphdr *tcp = (struct tcphdr *)(skb->data + l4);
	const struct ipv6hdr *ip6;
	const struct iphdr *ip;

	switch (gso_type) {
	case ZCNIC_GSO_TCP4:
		ip = (const void *)(skb->data + l3);
		if (ip->version != 4)
			return 0;
		tcp->check = ~tcp_v4_check(skb->len - l4, ip->saddr, ip->daddr,
					   0);
		skb_shinfo(skb)->gso_type = SKB_GSO_TCPV4;
		return htons(ETH_P_IP);
	case ZCNIC_GSO_TCP6:
		ip6 = (const void *)(skb->data + l3);
		if (l3 + sizeof(*ip6) > l4 || ip6->version != 6)
			return 0;
		tcp->check = ~tcp_v6_check(skb->len - l4, &ip6->saddr,
					   &ip6->daddr, 0);
		skb_shinfo(skb)->gso_type = SKB_GSO_TCPV6;
		return htons(ETH_P_IPV6);
	default:
		return 0;
	}
}

/**
 * zcnic_gro_complete() - make a coalesced frame a GSO skb
 * @skb: the whole frame
 * @header: its last receive header
 * @headers: on success, bytes of headers that each segment had
 *
 * Return: whether the receive header agrees with the frame.
 */
bool zcnic_gro_complete(struct sk_buff *skb,
			const struct zcnic_rx_header *header, u32 *headers)
{
	struct skb_shared_info *shinfo = skb_shinfo(skb);
	u32 count = le16_to_cpu(header->seg_count);
	u32 size = le16_to_cpu(header->seg_size);
	u32 l3 = le16_to_cpu(header->l3_offset);
	u32 l4 = le16_to_cpu(header->l4_offset);
	u16 flags = le16_to_cpu(header->flags);
	const struct tcphdr *tcp;
	__be16 protocol;
	u32 payload;

	if (!(flags & ZCNIC_RX_CSUM_GOOD) || l3 < ETH_HLEN ||
	    l3 + sizeof(struct iphdr) > l4 ||
	    l4 + sizeof(*tcp) > skb_headlen(skb))
		return false;
	tcp = (const void *)(skb->data + l4);
	*headers = l4 + __tcp_hdrlen(tcp);
	if (*headers < l4 + sizeof(*tcp) || *headers > skb_headlen(skb) ||
	    *headers >= skb->len)
		return false;
	payload = skb->len - *headers;
	if (count < 2 || !size || payload <= (count - 1) * size ||
	    payload > count * size)
		return false;

	protocol = zcnic_gro_checksum(skb, header->gso_type, l3, l4);
	if (!protocol || !zcnic_gro_tunnel(skb, l3, l4, protocol))
		return false;
	if (flags & ZCNIC_RX_FIXED_ID)
		shinfo->gso_type |= SKB_GSO_TCP_FIXEDID;
	if (flags & ZCNIC_RX_FIXED_ID_INNER)
		shinfo->gso_type |= SKB_GSO_TCP_FIXEDID_INNER;
	if (tcp->cwr)
		shinfo->gso_type |= SKB_GSO_TCP_ACCECN;
	shinfo->gso_size = size;
	shinfo->gso_segs = count;
	skb_set_transport_header(skb, l4);
	skb->csum_start = skb_headroom(skb) + l4;
	skb->csum_offset = offsetof(struct tcphdr, check);
	skb->ip_summed = CHECKSUM_PARTIAL;
	return true;
}
