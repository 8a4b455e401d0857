// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hardware GRO: frames that the device made of several. The stack gets what its own GRO would have made: one that
 * can be segmented again, with a checksum that is still to be completed.
 */
#include <linux/if_vlan.h>
#include <net/ip6_checksum.h>
#include <net/tcp.h>

#include "zcnic.h"

/* Where the outermost IP header is, and its Ethernet type. */
static u32 zcnic_ip_offset(const struct sk_buff *skb, __be16 *protocol)
{
	u32 offset = ETH_HLEN;

	*protocol = ((struct ethhdr *)skb->data)->h_proto;
	while (eth_type_vlan(*protocol) &&
	       offset + VLAN_HLEN <= skb_headlen(skb)) {
		*protocol = ((struct vlan_hdr *)(skb->data + offset))
				    ->h_vlan_encapsulated_proto;
		offset += VLAN_HLEN;
	}
	return offset;
}

static bool zcnic_gro_tunnel(struct sk_buff *skb, u32 l3, u32 l4, bool inner4)
{
	__be16 protocol;
	u32 outer = zcnic_ip_offset(skb, &protocol);

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
	skb_set_inner_protocol(skb,
			       inner4 ? htons(ETH_P_IP) : htons(ETH_P_IPV6));
	return true;
}

/**
 * zcnic_gro_complete() - make a frame of several segments one that the stack knows as such
 * @skb: the whole frame
 * @header: what the device says of it
 * @headers: bytes that each segment had in front of its payload, if this succeeds
 *
 * Return: whether what the device says agrees with the frame.
 */
bool zcnic_gro_complete(struct sk_buff *skb,
			const struct zcnic_rx_header *header, u32 *headers)
{
	u32 l3 = le16_to_cpu(header->l3_offset),
	    l4 = le16_to_cpu(header->l4_offset);
	u32 size = le16_to_cpu(header->seg_size),
	    count = le16_to_cpu(header->seg_count);
	struct skb_shared_info *shinfo = skb_shinfo(skb);
	u16 flags = le16_to_cpu(header->flags);
	struct ipv6hdr *ip6;
	struct tcphdr *tcp;
	struct iphdr *ip;
	u32 payload;

	if (!(flags & ZCNIC_RX_CSUM_GOOD) || l3 < ETH_HLEN ||
	    l3 + sizeof(*ip) > l4 || l4 + sizeof(*tcp) > skb_headlen(skb))
		return false;
	tcp = (struct tcphdr *)(skb->data + l4);
	*headers = l4 + __tcp_hdrlen(tcp);
	if (*headers < l4 + sizeof(*tcp) || *headers > skb_headlen(skb) ||
	    *headers >= skb->len)
		return false;
	payload = skb->len - *headers;
	if (count < 2 || !size || payload <= (count - 1) * size ||
	    payload > count * size)
		return false;

	shinfo->gso_type = 0;
	switch (header->gso_type) {
	case ZCNIC_GSO_TCP4:
		ip = (struct iphdr *)(skb->data + l3);
		if (ip->version != 4)
			return false;
		tcp->check =
			~tcp_v4_check(skb->len - l4, ip->saddr, ip->daddr, 0);
		shinfo->gso_type |= SKB_GSO_TCPV4;
		break;
	case ZCNIC_GSO_TCP6:
		ip6 = (struct ipv6hdr *)(skb->data + l3);
		if (l3 + sizeof(*ip6) > l4 || ip6->version != 6)
			return false;
		tcp->check = ~tcp_v6_check(skb->len - l4, &ip6->saddr,
					   &ip6->daddr, 0);
		shinfo->gso_type |= SKB_GSO_TCPV6;
		break;
	default:
		return false;
	}
	if (!zcnic_gro_tunnel(skb, l3, l4, header->gso_type == ZCNIC_GSO_TCP4))
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
