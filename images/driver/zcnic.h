/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The device, its queue pairs, and the limits that apply to all of it. Each
 * other header is of one concern and includes this one.
 */
#ifndef ZCNIC_H
#define ZCNIC_H

#include <linux/cpumask.h>
#include <linux/etherdevice.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/ptp_clock_kernel.h>
#include <linux/virtio.h>
#include <linux/workqueue.h>

#include "zcnic_abi.h"
#include "zcnic_rx.h"
#include "zcnic_steering.h"
#include "zcnic_tx.h"

/* First octets of the MAC address by which zcnic_validate() knows a device */
#define ZCNIC_MAC_PREFIX		{ 0x5a, 0x43, 0x4e }

/* Feature bits that the driver implements, word 0 */
#define ZCNIC_FEATURES			(BIT_ULL(ZCNIC_F_RX_CSUM) |	\
					 BIT_ULL(ZCNIC_F_TX_CSUM) |	\
					 BIT_ULL(ZCNIC_F_TSO4) |	\
					 BIT_ULL(ZCNIC_F_TSO6) |	\
					 BIT_ULL(ZCNIC_F_USO) |		\
					 BIT_ULL(ZCNIC_F_RX_HASH) |	\
					 BIT_ULL(ZCNIC_F_SPLIT) |	\
					 BIT_ULL(ZCNIC_F_RULES) |	\
					 BIT_ULL(ZCNIC_F_RSS_CONTEXTS) | \
					 BIT_ULL(ZCNIC_F_RSS_SYMMETRIC) | \
					 BIT_ULL(ZCNIC_F_GRO) |		\
					 BIT_ULL(ZCNIC_F_TIMESTAMP) |	\
					 BIT_ULL(ZCNIC_F_VLAN) |	\
					 BIT_ULL(ZCNIC_F_COALESCE) |	\
					 BIT_ULL(ZCNIC_F_SPLIT_L4) |	\
					 BIT_ULL(ZCNIC_F_MTU))

/* vhost-user's SET_VRING_KICK names a ring by a u8: 256 rings, 2 per pair */
#define ZCNIC_MAX_PAIRS			128

/* Interrupts: one per ring of data pairs and command pair, configuration */
#define ZCNIC_VECTORS(pairs)		(2 * ((pairs) + 1) + 1)

#define ZCNIC_EVENTS			8

struct dentry;

struct zcnic_pair {
	struct zcnic *zn;
	u16 index;
	bool open;		/* has receive memory; the interface is up */
	bool napi_on;
	/* bound to the queue, also while the interface is down */
	struct xsk_buff_pool *xsk;

	struct napi_struct napi;
	/* orders writes of the rings' event indices, see zcnic_poll_begin() */
	spinlock_t callback_lock;
	bool polling;
	/* callbacks are enabled: the rings interrupt beyond these indices */
	bool armed;
	unsigned int armed_rx;
	unsigned int armed_tx;
	u32 armings;		/* times that callbacks were enabled */
	u32 overdue;		/* arming without its interrupt, last check */
	bool interrupt_lost;	/* to be counted by NAPI */
	struct timer_list refill_timer;

	struct zcnic_rx rx;
	struct zcnic_tx tx;
} ____cacheline_aligned_in_smp;

/* Interrupt moderation, as the device is asked for it */
struct zcnic_coalescing {
	u16 rx_usecs;
	u16 rx_frames;
	u16 tx_usecs;
	u16 tx_frames;
};

/* Bits of zcnic.work */
enum zcnic_work {
	ZCNIC_WORK_RESET,	/* the device must be reset */
};

struct zcnic {
	struct net_device *dev;
	struct virtio_device *vdev;
	struct device *dma_dev;

	struct zcnic_pair *pairs;
	char (*vq_names)[16];
	struct cpumask *affinity;	/* per vector, while there is none */
	u16 device_pairs;	/* of the device, command pair included */
	u16 pair_count;		/* data pairs that have vectors */
	u16 channels;		/* data pairs in use */

	/* descriptors of a ring */
	u32 rx_ring_size;
	u32 tx_ring_size;
	/* ethtool -G: chains, descriptors */
	u32 rx_pending;
	u32 tx_pending;
	bool split;
	u32 hds_thresh;
	bool gro;		/* hardware GRO */
	bool xdp;		/* receive buffers are for XDP */
	struct bpf_prog *xdp_prog;
	u16 xsk_pools;
	struct zcnic_coalescing coalescing;
	int tx_type;		/* enum hwtstamp_tx_types: off or on */
	int rx_filter;		/* enum hwtstamp_rx_filters: none or all */

	struct ptp_clock_info ptp_info;
	struct ptp_clock *ptp;	/* NULL: the kernel has no PTP clocks */
	/* of the next four; taken outside command_lock */
	struct mutex clock_lock;
	u64 clock_session;	/* whose clock is the adjusted one */
	/* the port's and the device's clock at the last command about them */
	u64 clock_port;
	u64 clock_device;
	long clock_frequency;	/* scaled ppm */

	/* from QEMU or the user: what ethtool and bonding want to know */
	u32 speed;		/* Mbit/s */
	u8 duplex;

	/* from HELLO; before the first one, the driver's own limits */
	u64 features;
	u32 max_header_size;
	u32 max_page_size;
	u32 max_frame;
	u32 max_rules;
	u16 max_rss_contexts;
	u16 max_rss_table;
	u16 max_chains;

	/*
	 * Serialises commands. Taken inside the netdev instance lock, with no
	 * lock inside it. Code that starts or stops queues, or that sends more
	 * than one command, holds the instance lock as well.
	 */
	struct mutex command_lock;
	struct virtqueue *command_vq;
	struct virtqueue *event_vq;
	struct virtqueue *control_vq;
	struct completion command_done;
	u32 command_sequence;
	int session_error;	/* of the last attempt: each is logged once */
	u64 session;
	bool live;		/* the session is believed to be current */
	bool present;		/* the virtqueues exist and are in use */
	bool linked;		/* QEMU had a backend at the last check */
	struct zcnic_event *events;
	bool events_posted[ZCNIC_EVENTS];

	struct delayed_work service;
	unsigned long work;	/* enum zcnic_work */
	unsigned long next_reset;	/* jiffies, 0: any time */
	u64 resets;		/* that the driver decided on */
	u64 sessions;
	/* jiffies, 0: every chain in a ring belongs to a queue */
	unsigned long orphans_since;

	/* configuration, replayed to every new session */
	u16 rss_table_length;
	struct zcnic_rss rss[ZCNIC_MAX_RSS_CONTEXTS];
	struct zcnic_flow_rule *rules[ZCNIC_MAX_RULES];
	u32 rule_count;
	struct zcnic_address *addresses;
	u16 address_count;
	u16 rx_mode;

	/* device counters, summed up over backends; read without a lock */
	struct zcnic_port_stats port_stats;
	struct zcnic_queue_stats *queue_stats;
	/* the backend's own as of the last fetch */
	struct zcnic_port_stats port_fetched;
	struct zcnic_queue_stats *queue_fetched;

	struct dentry *debugfs;
};

/**
 * zcnic_time() - convert a time stamp
 * @nanoseconds: of the port's clock
 *
 * Return: the same for the stack.
 */
static inline ktime_t zcnic_time(__le64 nanoseconds)
{
	return ns_to_ktime(le64_to_cpu(nanoseconds));
}

#endif /* ZCNIC_H */
