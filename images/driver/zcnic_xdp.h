/* SPDX-License-Identifier: GPL-2.0-only */
/* XDP programs and AF_XDP pools: their data path and their set-up. */
#ifndef ZCNIC_XDP_H
#define ZCNIC_XDP_H

#include "zcnic.h"

/* Chunks that a frame of AF_XDP may take, in either direction */
#define ZCNIC_XSK_MAX_SEGMENTS		8

/* zcnic_xdp.c */
extern const struct xdp_metadata_ops zcnic_xdp_metadata_ops;
void zcnic_xdp_attach(struct zcnic_pair *pair);
void zcnic_xdp_detach(struct zcnic_pair *pair);
struct sk_buff *zcnic_xdp_receive(struct zcnic_pair *pair,
				  const struct zcnic_rx_header *header);
void zcnic_xdp_flush(struct zcnic_pair *pair);
int zcnic_xdp_xmit(struct net_device *dev, int count,
		   struct xdp_frame **frames, u32 flags);

/* zcnic_xsk.c */
void zcnic_xsk_mem(struct xsk_buff_pool *pool, struct zcnic_rx_mem *mem);
u32 zcnic_xsk_max_mtu(struct xsk_buff_pool *pool);
void zcnic_xsk_attach(struct zcnic_rx *rx);
u32 zcnic_xsk_frag_size(const struct zcnic_rx_mem *mem);
bool zcnic_xsk_fill(struct zcnic_rx *rx, struct zcnic_rx_slot *slot);
bool zcnic_xsk_filled(struct zcnic_rx *rx, bool short_of);
dma_addr_t zcnic_xsk_dma(const struct zcnic_rx_slot *slot);
void zcnic_xsk_sync(struct zcnic_pair *pair, const struct zcnic_rx_slot *slot);
bool zcnic_xsk_take(struct zcnic_rx *rx, struct zcnic_rx_slot *slot,
		    u32 length);
void zcnic_xsk_put(struct zcnic_rx *rx, struct zcnic_rx_slot *slot);
void zcnic_xsk_free(struct xdp_buff *buff);
bool zcnic_xsk_send(struct zcnic_pair *pair);
void zcnic_xsk_resume(struct zcnic *zn);
int zcnic_xsk_wakeup(struct net_device *dev, u32 queue, u32 flags);

/* zcnic_xsk_pool.c */
int zcnic_xsk_setup(struct zcnic *zn, struct xsk_buff_pool *pool, u16 queue);

/* zcnic_bpf.c */
int zcnic_bpf(struct net_device *dev, struct netdev_bpf *bpf);
int zcnic_change_mtu(struct net_device *dev, int mtu);

#endif /* ZCNIC_XDP_H */
