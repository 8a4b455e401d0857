/* SPDX-License-Identifier: GPL-2.0-only */
/* Transmit: the ring of a queue, and the three kinds of frames in it. */
#ifndef ZCNIC_TX_H
#define ZCNIC_TX_H

#include <linux/dma-mapping.h>
#include <linux/if_ether.h>
#include <linux/log2.h>
#include <linux/minmax.h>
#include <linux/skbuff.h>
#include <linux/u64_stats_sync.h>
#include <net/xdp.h>

#include "zcnic_abi.h"

struct scatterlist;
struct virtqueue;
struct xsk_buff_pool;
struct zcnic;
struct zcnic_pair;

/*
 * The longest chain: transmit header, linear part, MAX_SKB_FRAGS fragments, and
 * the descriptor for the time.
 */
#define ZCNIC_TX_DESCS			(MAX_SKB_FRAGS + 3)
#define ZCNIC_MIN_TX_PENDING		roundup_pow_of_two(ZCNIC_TX_DESCS + 1)

/* Allocated for a frame that wants a hardware time stamp */
struct zcnic_tx_stamp {
	struct zcnic_tx_header header;
	/* device-writable: on a cache line of its own */
	struct zcnic_tx_time time __aligned(ARCH_DMA_MINALIGN);
};

struct zcnic_tx_slot {
	struct zcnic_tx_slot *next;	/* in the free or quarantine list */
	u16 sequence;		/* of the transmission */
	struct sk_buff *skb;
	struct xdp_frame *frame;	/* instead of skb */
	u16 xsk_descs;		/* instead of both: AF_XDP descriptors */
	struct zcnic_tx_stamp *stamp;	/* NULL: no time stamp wanted */
	u32 bytes;		/* on the wire; 0 for XDP, which BQL ignores */
	u16 descs;
	u16 mapped;		/* entries of dma[], the linear part first */
	struct {
		DEFINE_DMA_UNMAP_ADDR(addr);
		DEFINE_DMA_UNMAP_LEN(len);
	} dma[MAX_SKB_FRAGS + 1];
};

struct zcnic_tx_stats {
	u64_stats_t packets;
	u64_stats_t bytes;
	u64_stats_t dropped;
	u64_stats_t csum_none;
	u64_stats_t needs_csum;
	u64_stats_t gso_packets;
	u64_stats_t gso_bytes;
	u64_stats_t gso_wire_packets;
	u64_stats_t gso_wire_bytes;
	u64_stats_t stop;
	u64_stats_t wake;
	u64_stats_t misordered;	/* completions out of order */
	u64_stats_t hwtstamps;
	u64_stats_t hwtstamps_lost;	/* the device returned none */
	u64_stats_t hwtstamps_failed;	/* of frames that the CPU can't read */
	struct u64_stats_sync syncp;
};

struct zcnic_tx {
	struct virtqueue *vq;
	struct zcnic_tx_slot *slots;
	struct zcnic_tx_slot *free;
	/* completed out of order, so perhaps still the device's */
	struct zcnic_tx_slot *quarantine;
	u16 sequence;		/* of the next transmission */
	u16 due;		/* of the next completion */
	struct zcnic_tx_header *headers;	/* one per slot, coherent */
	dma_addr_t headers_dma;
	dma_addr_t padding_dma;	/* zeroes behind the headers */
	u32 slot_count;
	u32 used;		/* descriptors; under the queue's lock */
	u32 frames;		/* of XDP and AF_XDP, in the ring */
	u32 xsk_descs;		/* of AF_XDP, in the ring */
	/* the pair's, and those descriptors', also while the pair is closed */
	struct xsk_buff_pool *xsk;
	u32 limit;		/* descriptors, from ethtool -G */
	bool started;		/* TXQ_START was executed in this session */
	/* zcnic_tx_timed_out(): due then, and since when; 0: not known */
	u16 progress_due;
	unsigned long progress_since;	/* jiffies */

	struct zcnic_tx_stats stats;
};

/**
 * zcnic_tx_room() - free descriptors
 * @tx: the queue; the caller holds its lock
 *
 * Return: descriptors that may be added, 0 if no slot is free.
 */
static inline u32 zcnic_tx_room(const struct zcnic_tx *tx)
{
	return tx->free ? tx->limit - min(tx->used, tx->limit) : 0;
}

/**
 * zcnic_tx_wake_room() - free descriptors at which a stopped queue is woken
 * @tx: the queue
 *
 * Return: room for two frames of any length, or an empty ring of the smallest
 * size, so that a queue doesn't stop again with the next frame.
 */
static inline u32 zcnic_tx_wake_room(const struct zcnic_tx *tx)
{
	return min_t(u32, 2 * ZCNIC_TX_DESCS, tx->limit);
}

/**
 * zcnic_tx_padding() - complete a frame to Ethernet's minimum
 * @bytes: of the frame
 *
 * Return: bytes that it lacks.
 */
static inline u32 zcnic_tx_padding(u32 bytes)
{
	return bytes < ETH_ZLEN ? ETH_ZLEN - bytes : 0;
}

/* zcnic_tx_ring.c */
int zcnic_tx_slots_alloc(struct zcnic_pair *pair);
void zcnic_tx_slots_free(struct zcnic_pair *pair);
void zcnic_tx_unmap(struct zcnic *zn, struct zcnic_tx_slot *slot);
unsigned int zcnic_tx_poll(struct zcnic_pair *pair, int budget);
void zcnic_tx_drain(struct zcnic_pair *pair);
bool zcnic_tx_timed_out(struct zcnic_pair *pair);
void zcnic_tx_reset_accounting(struct zcnic_pair *pair);
void zcnic_tx_detach(struct zcnic_pair *pair);

/* zcnic_tx.c */
netdev_tx_t zcnic_start_xmit(struct sk_buff *skb, struct net_device *dev);
bool zcnic_tx_xdp(struct zcnic_pair *pair, struct xdp_frame *frame,
		  bool pooled);
bool zcnic_tx_xsk(struct zcnic_pair *pair, struct scatterlist *sg, u16 count,
		  u32 bytes);
void zcnic_tx_kick(struct zcnic_tx *tx);

#endif /* ZCNIC_TX_H */
