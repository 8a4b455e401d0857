/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef ZCNIC_H
#define ZCNIC_H

#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/net_tstamp.h>
#include <linux/netdevice.h>
#include <linux/ptp_clock_kernel.h>
#include <linux/u64_stats_sync.h>
#include <linux/virtio.h>
#include <net/netdev_queues.h>
#include <net/netmem.h>
#include <net/xdp.h>

#include "zcnic_abi.h"

/* What makes a virtio network device ours, see zcnic_validate(). */
#define ZCNIC_MAC_PREFIX		{ 0x5a, 0x43, 0x4e }

/* Features that the driver knows, word 0. */
#define ZCNIC_FEATURES (BIT_ULL(ZCNIC_F_RX_CSUM) | BIT_ULL(ZCNIC_F_TX_CSUM) | \
			BIT_ULL(ZCNIC_F_TSO4) | BIT_ULL(ZCNIC_F_TSO6) | \
			BIT_ULL(ZCNIC_F_USO) | BIT_ULL(ZCNIC_F_RX_HASH) | \
			BIT_ULL(ZCNIC_F_SPLIT) | BIT_ULL(ZCNIC_F_RULES) | \
			BIT_ULL(ZCNIC_F_RSS_CONTEXTS) | BIT_ULL(ZCNIC_F_RSS_SYMMETRIC) | \
			BIT_ULL(ZCNIC_F_GRO) | BIT_ULL(ZCNIC_F_TIMESTAMP) | \
			BIT_ULL(ZCNIC_F_VLAN) | BIT_ULL(ZCNIC_F_COALESCE))

/* SET_VRING_KICK of vhost-user names rings with a u8. */
#define ZCNIC_MAX_PAIRS			128

/*
 * A linear buffer is half a page, so that one page serves two frames. The receive header lies where
 * the stack wants headroom and is overwritten there; the tail is kept for struct skb_shared_info. With
 * hardware GRO it is a whole page: then 64 KiB fit into as many chains as a frame may have fragments. So it
 * is with XDP, which wants more headroom.
 */
#define ZCNIC_LINEAR_TRUESIZE		2048
#define ZCNIC_LINEAR_GRO_TRUESIZE	4096
#define ZCNIC_LINEAR_XDP_TRUESIZE	PAGE_SIZE
#define ZCNIC_LINEAR_SIZE(truesize)	(SKB_WITH_OVERHEAD(truesize) & ~63)

/* In front of the receive header, so that frames have XDP's headroom. */
#define ZCNIC_XDP_HEADROOM	(XDP_PACKET_HEADROOM - sizeof(struct zcnic_rx_header))

/*
 * A header fragment holds the receive header and either the headers of a split frame or a whole frame
 * up to hds-thresh. 192 bytes are an IPv6 and TCP header with all TCP options and 90 bytes of
 * extension headers; larger thresholds make the fragment larger.
 */
#define ZCNIC_MIN_HEADER_ROOM		192
#define ZCNIC_MAX_HDS_THRESH		1536

#define ZCNIC_MIN_RX_PENDING		16
/* A frame of MAX_SKB_FRAGS fragments, its linear part, the transmit header, and the time. */
#define ZCNIC_TX_DESCS			(MAX_SKB_FRAGS + 3)
#define ZCNIC_MIN_TX_PENDING		roundup_pow_of_two(ZCNIC_TX_DESCS + 1)

#define ZCNIC_MAX_RSS_CONTEXTS		64
#define ZCNIC_MAX_RSS_TABLE		512
#define ZCNIC_MAX_RULES			1024

#define ZCNIC_EVENTS			8

/* Chunks that a frame of AF_XDP may take, in either direction. */
#define ZCNIC_XSK_MAX_SEGMENTS		8

struct zcnic;
struct zcnic_pair;

/* The memory of a receive queue: what the queue management operations exchange. */
struct zcnic_rx_mem {
	struct page_pool *header_pool;
	struct page_pool *payload_pool;	/* NULL: linear chains */
	struct xsk_buff_pool *xsk;	/* instead of page pools */
	bool xdp;			/* frames are xdp_buffs, not skbs */
	u8 max_chains;			/* that a frame may take, if the device allows it */
	u32 headroom;			/* of page pools for XDP, else 0 */
	u32 header_truesize;
	u32 header_size;
	u32 page_size;
	u32 hds_thresh;
};

/*
 * One posted chain. It names its own pools and sizes because it can outlive the memory that the queue
 * has now: a queue that is stopped while no backend is there leaves its chains in the ring.
 */
struct zcnic_rx_slot {
	struct zcnic_rx_slot *next;	/* in the list of free slots, or of those set aside */
	u16 sequence;			/* of the posting */
	struct page_pool *header_pool;
	struct page_pool *payload_pool;
	netmem_ref header;
	netmem_ref payload;
	struct xdp_buff *xsk;		/* instead */
	void *header_va;
	u32 header_offset;
	u32 header_truesize;
	u32 header_size;
	u32 page_size;
};

struct zcnic_rx_stats {
	u64_stats_t packets;
	u64_stats_t bytes;
	u64_stats_t alloc_fail;
	u64_stats_t csum_unnecessary;
	u64_stats_t csum_none;
	u64_stats_t csum_bad;
	u64_stats_t split;
	u64_stats_t gro_packets;
	u64_stats_t gro_bytes;
	u64_stats_t gro_wire_packets;
	u64_stats_t gro_wire_bytes;
	u64_stats_t dropped;		/* by the driver: csum_bad on an unreadable queue, no skb */
	u64_stats_t bad_header;		/* receive headers that contradict themselves or the ring */
	u64_stats_t returned;		/* chains that came back unused while the queue ran */
	u64_stats_t misordered;		/* completions of other chains than the one that was due */
	u64_stats_t lost_interrupts;	/* of the pair */
	u64_stats_t xdp_drop;
	u64_stats_t xdp_tx;
	u64_stats_t xdp_redirect;
	u64_stats_t xdp_error;		/* aborted, or could not be sent or redirected */
	struct u64_stats_sync syncp;
};

/* What programs are called with. */
struct zcnic_xdp_buff {
	struct xdp_buff buff;
	const struct zcnic_rx_header *header;
};

struct zcnic_rx {
	struct virtqueue *vq;
	struct zcnic_rx_mem mem;
	struct zcnic_rx_slot *slots;
	struct zcnic_rx_slot *free;
	struct zcnic_rx_slot *quarantine;	/* see zcnic_rx_mark_broken() */
	u16 sequence;			/* of the next posting */
	u16 due;			/* of the next completion */
	u32 posted;
	u32 limit;			/* chains, from ethtool -G */
	bool started;			/* RXQ_START was executed in this session */

	/* the frame whose last chain has not been seen yet */
	bool partial;
	bool skipping;			/* its remaining chains, it was dropped */
	struct sk_buff *skb;
	struct xdp_buff *buff;		/* instead: this one, or an AF_XDP pool's */
	struct zcnic_xdp_buff xdp;
	u32 frame_id;
	u32 frame_length;
	u32 received;			/* bytes */
	u16 next_chain;

	struct xdp_rxq_info xdp_rxq;	/* registered while there is such memory */
	bool xdp_sent;			/* since the last zcnic_xdp_flush() */
	bool xdp_redirected;
	u32 xsk_buffers;		/* of AF_XDP pools, in the ring */

	struct page **held;		/* unless NULL: what the stack got last, see zcnic_hold.c */
	u32 oldest_held;

	struct zcnic_rx_stats stats;
};

/* Beside a frame whose time of sending is wanted. */
struct zcnic_tx_stamp {
	struct zcnic_tx_header header;
	/* the device writes it, so it has nothing to do with what the device reads */
	struct zcnic_tx_time time __aligned(ARCH_DMA_MINALIGN);
};

struct zcnic_tx_slot {
	struct zcnic_tx_slot *next;	/* in the list of free slots, or of those set aside */
	u16 sequence;			/* of the transmission */
	struct sk_buff *skb;
	struct xdp_frame *frame;	/* instead */
	struct zcnic_tx_stamp *stamp;	/* if the time is wanted */
	u32 bytes;			/* on the wire; 0 for XDP, which byte queue limits don't count */
	u16 descs;
	u16 xsk_descs;			/* instead of skb or frame: descriptors of the pair's AF_XDP pool */
	u16 mapped;			/* entries of dma[] in use; the first is the linear part */
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
	u64_stats_t misordered;		/* completions of other chains than the one that was due */
	struct u64_stats_sync syncp;
};

struct zcnic_tx {
	struct virtqueue *vq;
	struct zcnic_tx_slot *slots;
	struct zcnic_tx_slot *free;
	struct zcnic_tx_slot *quarantine;	/* completed before their time, and perhaps still the device's */
	u16 sequence;			/* of the next transmission */
	u16 due;			/* of the next completion */
	struct zcnic_tx_header *headers;	/* one per slot, coherent */
	dma_addr_t headers_dma;
	u32 slot_count;
	u32 used;			/* descriptors; under the queue's lock */
	u32 frames;			/* of XDP and AF_XDP, in the ring */
	u32 xsk_descs;			/* of AF_XDP, in the ring */
	u32 limit;			/* descriptors, from ethtool -G */
	bool started;
	u16 progress_due;			/* due at the last look */
	unsigned long progress_since;	/* jiffies at the first look that saw it so, 0: not seen yet */

	struct zcnic_tx_stats stats;
};

struct zcnic_pair {
	struct zcnic *zn;
	u16 index;
	bool open;			/* has receive memory; the interface is up */
	bool napi_on;
	struct xsk_buff_pool *xsk;	/* the queue's, whenever it has memory */

	struct napi_struct napi;
	/* see zcnic_poll() */
	spinlock_t callback_lock;
	bool polling;
	bool armed;			/* both rings interrupt as soon as they go beyond these */
	unsigned int armed_rx, armed_tx;
	u32 armings;			/* how often that was so */
	u32 overdue;			/* the arming whose interrupt was missing at the last look */
	struct timer_list refill_timer;

	struct zcnic_rx rx;
	struct zcnic_tx tx;
} ____cacheline_aligned_in_smp;

/* An RSS context as it was set last; replayed to every new session. */
struct zcnic_rss {
	bool exists;
	u8 symmetric;			/* enum zcnic_rss_symmetric */
	u16 fields[ZCNIC_FLOW_TYPES];
	u8 key[ZCNIC_RSS_KEY_SIZE];
	u16 table[ZCNIC_MAX_RSS_TABLE];
};

struct zcnic_flow_rule {
	struct ethtool_rx_flow_spec spec;
	u32 rss_context;
	struct zcnic_rule rule;
};

/* How long interrupts are put off. */
struct zcnic_coalescing {
	u16 rx_usecs;
	u16 rx_frames;
	u16 tx_usecs;
	u16 tx_frames;
};

enum zcnic_work {
	ZCNIC_WORK_RESET,		/* the device must be reset */
};

struct zcnic {
	struct net_device *dev;
	struct virtio_device *vdev;
	struct device *dma_dev;

	struct zcnic_pair *pairs;
	char (*vq_names)[16];
	u16 device_pairs;		/* of the device, command pair included */
	u16 pair_count;			/* data pairs that have vectors */
	u16 channels;			/* data pairs in use */

	u32 rx_ring_size;
	u32 tx_ring_size;
	u32 rx_pending;
	u32 tx_pending;
	bool split;
	u32 hds_thresh;
	bool gro;			/* hardware GRO */
	bool xdp;			/* receive buffers are for XDP */
	struct bpf_prog *xdp_prog;
	u16 xsk_pools;
	struct zcnic_coalescing coalescing;
	int tx_type;			/* enum hwtstamp_tx_types: off or on */
	int rx_filter;			/* enum hwtstamp_rx_filters: none or all */

	struct ptp_clock_info ptp_info;
	struct ptp_clock *ptp;		/* NULL: the kernel has none */
	atomic64_t clock_offset;	/* of what the interface shows from the device's clock */

	/* what HELLO told; what a backend surely has before the first one */
	u64 features;
	u32 max_header_size;
	u32 max_page_size;
	u32 max_frame;
	u32 max_rules;
	u16 max_rss_contexts;
	u16 max_rss_table;
	u16 max_chains;

	/*
	 * Commands, sessions and events. Inside the netdev instance lock, outside nothing.
	 * Whoever stops or starts queues or sends more than one command holds the instance lock.
	 */
	struct mutex command_lock;
	struct virtqueue *command_vq;
	struct virtqueue *event_vq;
	struct virtqueue *control_vq;
	struct completion command_done;
	u32 command_sequence;
	int session_error;		/* of the last attempt, so that each is reported once */
	u64 session;
	bool live;			/* the session is believed to be current */
	bool present;			/* the virtqueues exist and the device is driven */
	bool linked;			/* QEMU has a backend, as of the last look */
	struct zcnic_event *events;
	bool events_posted[ZCNIC_EVENTS];

	struct delayed_work service;
	unsigned long work;		/* enum zcnic_work */
	unsigned long next_reset;	/* jiffies, 0: any time */
	u64 resets;			/* by us, because the device could not be trusted any more */
	u64 sessions;
	unsigned long orphans_since;	/* jiffies, 0: no chain is away without a queue */

	/* configuration that a new session gets */
	u16 rss_table_length;
	struct zcnic_rss rss[ZCNIC_MAX_RSS_CONTEXTS];
	struct zcnic_flow_rule *rules[ZCNIC_MAX_RULES];
	u32 rule_count;
	struct zcnic_address *addresses;
	u16 address_count;
	u16 rx_mode;

	/* device counters as of the last fetch; read without a lock */
	struct zcnic_port_stats port_stats;
	struct zcnic_queue_stats *queue_stats;

	struct dentry *debugfs;
};

/* zcnic_vqs.c */
int zcnic_vqs_init(struct zcnic *zn);
void zcnic_vqs_del(struct zcnic *zn);
int zcnic_vqs_enable_pairs(struct zcnic *zn);

/* zcnic_command.c */
int zcnic_command(struct zcnic *zn, u16 opcode, void *request, size_t request_length,
		  void *response, size_t response_length);
int zcnic_hello(struct zcnic *zn);
int zcnic_queue_command(struct zcnic *zn, u16 opcode, u16 queue);
void zcnic_command_callback(struct virtqueue *vq);
void zcnic_command_clean(struct zcnic *zn);

/* An error that says nothing about the request: it was not executed, or nobody knows. */
static inline bool zcnic_disconnected(int err)
{
	return err == -ENOTCONN;
}

/* zcnic_session.c */
void zcnic_session_init(struct zcnic *zn);
int zcnic_session_establish(struct zcnic *zn);
int zcnic_device_start(struct zcnic *zn);
int zcnic_reset(struct zcnic *zn);
void zcnic_device_stop(struct zcnic *zn);
void zcnic_device_detach(struct zcnic *zn);
void zcnic_service_schedule(struct zcnic *zn);
void zcnic_request_reset(struct zcnic *zn);
void zcnic_request_session(struct zcnic *zn);
void zcnic_event_callback(struct virtqueue *vq);
void zcnic_events_post(struct zcnic *zn);
void zcnic_events_clean(struct zcnic *zn);
void zcnic_orphaned(struct zcnic *zn);
int zcnic_reset_prepare(struct virtio_device *vdev);
int zcnic_reset_done(struct virtio_device *vdev);

/* zcnic_netdev.c */
void zcnic_set_xps(struct zcnic *zn);
void zcnic_netdev_setup(struct zcnic *zn);
void zcnic_set_hw_features(struct zcnic *zn);
void zcnic_set_max_mtu(struct zcnic *zn);
int zcnic_send_offloads(struct zcnic *zn, netdev_features_t features);
int zcnic_send_rx_mode(struct zcnic *zn);

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
int zcnic_rx_mem_alloc(struct zcnic_pair *pair, u32 pending, u32 page_size, bool split,
		       u32 hds_thresh, struct zcnic_rx_mem *mem);
void zcnic_rx_mem_free(struct zcnic_rx_mem *mem);
int zcnic_pairs_open(struct zcnic *zn, u16 first, u16 end);
void zcnic_pairs_close(struct zcnic *zn, u16 first, u16 end);
int zcnic_pairs_reconfigure(struct zcnic *zn, u32 rx_pending, bool split, u32 hds_thresh);
void zcnic_rx_stop(struct zcnic_pair *pair);
void zcnic_pair_exchange(struct zcnic_pair *pair, struct zcnic_rx_mem *mem);
int zcnic_pair_start(struct zcnic_pair *pair);
bool zcnic_pair_drain(struct zcnic_pair *pair);

/* zcnic_rx.c */
int zcnic_rx_slots_alloc(struct zcnic_pair *pair);
void zcnic_rx_slots_free(struct zcnic_pair *pair);
int zcnic_rx_poll(struct zcnic_pair *pair, int budget);
bool zcnic_rx_fill(struct zcnic_pair *pair, gfp_t gfp);
void zcnic_rx_release(struct zcnic_rx *rx, struct zcnic_rx_slot *slot, bool napi);

static inline void zcnic_rx_count(struct zcnic_rx *rx, u64_stats_t *counter)
{
	u64_stats_update_begin(&rx->stats.syncp);
	u64_stats_inc(counter);
	u64_stats_update_end(&rx->stats.syncp);
}

void zcnic_rx_drop_frame(struct zcnic_rx *rx);
void zcnic_rx_drain(struct zcnic_pair *pair);
void zcnic_rx_detach(struct zcnic_pair *pair);

/* zcnic_gro.c */
bool zcnic_gro_complete(struct sk_buff *skb, const struct zcnic_rx_header *header, u32 *headers);

/* zcnic_hold.c */
void zcnic_hold(struct zcnic_rx *rx, netmem_ref netmem);
void zcnic_hold_stop(struct zcnic *zn);
int zcnic_hold_start(struct zcnic *zn);

/* zcnic_debugfs.c */
void zcnic_debugfs_init(void);
void zcnic_debugfs_exit(void);
void zcnic_debugfs_add(struct zcnic *zn);
void zcnic_debugfs_remove(struct zcnic *zn);

/* zcnic_xdp.c */
extern const struct xdp_metadata_ops zcnic_xdp_metadata_ops;
void zcnic_xdp_attach(struct zcnic_pair *pair);
void zcnic_xdp_detach(struct zcnic_pair *pair);
struct sk_buff *zcnic_xdp_receive(struct zcnic_pair *pair, const struct zcnic_rx_header *header);
void zcnic_xdp_flush(struct zcnic_pair *pair);
int zcnic_xdp_xmit(struct net_device *dev, int count, struct xdp_frame **frames, u32 flags);
int zcnic_bpf(struct net_device *dev, struct netdev_bpf *bpf);
int zcnic_change_mtu(struct net_device *dev, int mtu);

/* zcnic_xsk.c */
void zcnic_xsk_mem(struct xsk_buff_pool *pool, struct zcnic_rx_mem *mem);
void zcnic_xsk_attach(struct zcnic_rx *rx);
u32 zcnic_xsk_frag_size(const struct zcnic_rx_mem *mem);
bool zcnic_xsk_fill(struct zcnic_rx *rx, struct zcnic_rx_slot *slot);
bool zcnic_xsk_filled(struct zcnic_rx *rx, bool short_of);
dma_addr_t zcnic_xsk_dma(const struct zcnic_rx_slot *slot);
void zcnic_xsk_sync(struct zcnic_pair *pair, const struct zcnic_rx_slot *slot);
void zcnic_xsk_take(struct zcnic_rx *rx, struct zcnic_rx_slot *slot, u32 length);
void zcnic_xsk_put(struct zcnic_rx *rx, struct zcnic_rx_slot *slot);
void zcnic_xsk_free(struct xdp_buff *buff);
bool zcnic_xsk_send(struct zcnic_pair *pair);
int zcnic_xsk_wakeup(struct net_device *dev, u32 queue, u32 flags);
int zcnic_xsk_setup(struct zcnic *zn, struct xsk_buff_pool *pool, u16 queue);

/* zcnic_tx.c */
int zcnic_tx_slots_alloc(struct zcnic_pair *pair);
void zcnic_tx_slots_free(struct zcnic_pair *pair);
void zcnic_tx_unmap(struct zcnic *zn, struct zcnic_tx_slot *slot);

/* Free descriptors. */
static inline u32 zcnic_tx_room(const struct zcnic_tx *tx)
{
	return tx->free ? tx->limit - min(tx->used, tx->limit) : 0;
}

netdev_tx_t zcnic_start_xmit(struct sk_buff *skb, struct net_device *dev);
bool zcnic_tx_xdp(struct zcnic_pair *pair, struct xdp_frame *frame, bool pooled);
bool zcnic_tx_xsk(struct zcnic_pair *pair, struct scatterlist *sg, u16 count, u32 bytes);
void zcnic_tx_kick(struct zcnic_tx *tx);
unsigned int zcnic_tx_clean(struct zcnic_pair *pair, bool in_napi);
void zcnic_tx_reset_accounting(struct zcnic_pair *pair);
bool zcnic_tx_timed_out(struct zcnic_tx *tx);
void zcnic_tx_detach(struct zcnic_pair *pair);

/* zcnic_rss.c */
void zcnic_rss_init(struct zcnic *zn);
int zcnic_rss_can_resize(struct zcnic *zn, u16 channels);
int zcnic_rss_set_channels(struct zcnic *zn, u16 channels);
int zcnic_rss_replay(struct zcnic *zn);
u16 zcnic_rss_max_queue(struct zcnic *zn, u32 context);
u32 zcnic_rss_table_length(struct zcnic *zn, u16 channels);
u32 zcnic_get_rxfh_key_size(struct net_device *dev);
u32 zcnic_get_rxfh_indir_size(struct net_device *dev);
int zcnic_get_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh);
int zcnic_set_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh,
		   struct netlink_ext_ack *extack);
int zcnic_create_rxfh_context(struct net_device *dev, struct ethtool_rxfh_context *ctx,
			      const struct ethtool_rxfh_param *rxfh,
			      struct netlink_ext_ack *extack);
int zcnic_modify_rxfh_context(struct net_device *dev, struct ethtool_rxfh_context *ctx,
			      const struct ethtool_rxfh_param *rxfh,
			      struct netlink_ext_ack *extack);
int zcnic_remove_rxfh_context(struct net_device *dev, struct ethtool_rxfh_context *ctx,
			      u32 context, struct netlink_ext_ack *extack);
int zcnic_get_rxfh_fields(struct net_device *dev, struct ethtool_rxfh_fields *fields);
int zcnic_set_rxfh_fields(struct net_device *dev, const struct ethtool_rxfh_fields *fields,
			  struct netlink_ext_ack *extack);

/* zcnic_rules.c */
int zcnic_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd, u32 *locations);
int zcnic_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd);
int zcnic_rules_flush(struct zcnic *zn);
int zcnic_rules_replay(struct zcnic *zn);
bool zcnic_rules_fit(struct zcnic *zn, u16 channels);
void zcnic_rules_free(struct zcnic *zn);

/* zcnic_channels.c */
void zcnic_get_channels(struct net_device *dev, struct ethtool_channels *channels);
int zcnic_set_channels(struct net_device *dev, struct ethtool_channels *channels);

/* zcnic_ethtool.c */
extern const struct ethtool_ops zcnic_ethtool_ops;
int zcnic_send_coalesce(struct zcnic *zn);

/* zcnic_ptp.c */
void zcnic_ptp_register(struct zcnic *zn);
void zcnic_ptp_unregister(struct zcnic *zn);
int zcnic_get_ts_info(struct net_device *dev, struct kernel_ethtool_ts_info *info);
int zcnic_hwtstamp_get(struct net_device *dev, struct kernel_hwtstamp_config *config);
int zcnic_hwtstamp_set(struct net_device *dev, struct kernel_hwtstamp_config *config,
		       struct netlink_ext_ack *extack);

/* What the interface's clock showed when the device's showed @nanoseconds. */
static inline ktime_t zcnic_time(const struct zcnic *zn, __le64 nanoseconds)
{
	return ns_to_ktime(le64_to_cpu(nanoseconds) + atomic64_read(&zn->clock_offset));
}

/* zcnic_stats.c */
extern const struct netdev_stat_ops zcnic_stat_ops;
int zcnic_stats_fetch(struct zcnic *zn);
void zcnic_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *stats);
int zcnic_get_sset_count(struct net_device *dev, int set);
void zcnic_get_strings(struct net_device *dev, u32 set, u8 *data);
void zcnic_get_ethtool_stats(struct net_device *dev, struct ethtool_stats *stats, u64 *data);

#endif /* ZCNIC_H */
