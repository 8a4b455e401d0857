/* SPDX-License-Identifier: GPL-2.0-only */
/* Queue pairs: NAPI, and starting, stopping and exchanging their memory. */
#ifndef ZCNIC_QUEUE_H
#define ZCNIC_QUEUE_H

#include <net/netdev_queues.h>

#include "zcnic.h"

/* zcnic_napi.c */
int zcnic_poll(struct napi_struct *napi, int budget);
void zcnic_refill_timer(struct timer_list *timer);
void zcnic_ring_callback(struct virtqueue *vq);
void zcnic_napi_start(struct zcnic_pair *pair);
void zcnic_napi_stop(struct zcnic_pair *pair);
void zcnic_pairs_napi_start(struct zcnic *zn);
void zcnic_pairs_napi_stop(struct zcnic *zn);
void zcnic_napi_set_irq(struct zcnic_pair *pair);
bool zcnic_interrupts_missing(struct zcnic *zn);

/* zcnic_queue.c */
extern const struct netdev_queue_mgmt_ops zcnic_queue_mgmt_ops;
int zcnic_pairs_open(struct zcnic *zn, u16 first, u16 end);
void zcnic_pairs_close(struct zcnic *zn, u16 first, u16 end);
int zcnic_pairs_reconfigure(struct zcnic *zn, u32 rx_pending, bool split,
			    u32 hds_thresh);
void zcnic_pairs_leave_xdp(struct zcnic *zn);
void zcnic_rx_stop(struct zcnic_pair *pair);
void zcnic_pair_exchange(struct zcnic_pair *pair, struct zcnic_rx_mem *mem);
int zcnic_pair_start(struct zcnic_pair *pair);
bool zcnic_pair_drain(struct zcnic_pair *pair);

#endif /* ZCNIC_QUEUE_H */
