// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receiving without recycling, on purpose: what page pools save can be measured only against that. With the
 * private flag "no-recycle" the driver keeps a reference of its own to each page that the stack gets, until so
 * many more were received that the stack is done with it. The page pool finds that it is not the only one that
 * has the page, lets it go, and takes another one from the page allocator. Frames of XDP are not concerned.
 */
#include <linux/ethtool.h>
#include <linux/mm.h>
#include <net/netdev_lock.h>

#include "zcnic.h"

/* Of a queue: more than what waits in sockets. */
#define ZCNIC_HELD_PAGES	4096

/**
 * zcnic_hold() - keep a page from being recycled
 * @rx: the queue, in its NAPI, with the flag set
 * @netmem: what the stack gets
 */
void zcnic_hold(struct zcnic_rx *rx, netmem_ref netmem)
{
	struct page *page;

	if (netmem_is_net_iov(netmem))
		return;
	page = netmem_to_page(netmem);
	get_page(page);
	swap(page, rx->held[rx->oldest_held]);
	rx->oldest_held = (rx->oldest_held + 1) % ZCNIC_HELD_PAGES;
	if (page)
		put_page(page);
}

static void zcnic_hold_free(struct page **held)
{
	u32 i;

	for (i = 0; held && i < ZCNIC_HELD_PAGES; i++)
		if (held[i])
			put_page(held[i]);
	kvfree(held);
}

/**
 * zcnic_hold_stop() - keep no page any more
 * @zn: the device; nothing is received
 */
void zcnic_hold_stop(struct zcnic *zn)
{
	u16 i;

	for (i = 0; i < zn->pair_count; i++) {
		zcnic_hold_free(zn->pairs[i].rx.held);
		zn->pairs[i].rx.held = NULL;
	}
}

static int zcnic_hold_start(struct zcnic *zn)
{
	u16 i;

	for (i = 0; i < zn->pair_count; i++) {
		struct zcnic_rx *rx = &zn->pairs[i].rx;

		rx->oldest_held = 0;
		rx->held = kvcalloc(ZCNIC_HELD_PAGES, sizeof(*rx->held),
				    GFP_KERNEL);
		if (!rx->held) {
			zcnic_hold_stop(zn);
			return -ENOMEM;
		}
	}
	return 0;
}

u32 zcnic_get_priv_flags(struct net_device *dev)
{
	struct zcnic *zn = netdev_priv(dev);

	return zn->pairs[0].rx.held ? BIT(ZCNIC_PRIV_NO_RECYCLE) : 0;
}

int zcnic_set_priv_flags(struct net_device *dev, u32 flags)
{
	struct zcnic *zn = netdev_priv(dev);
	int err = 0;

	if (flags == zcnic_get_priv_flags(dev))
		return 0;
	zcnic_pairs_napi_stop(zn);
	if (flags & BIT(ZCNIC_PRIV_NO_RECYCLE))
		err = zcnic_hold_start(zn);
	else
		zcnic_hold_stop(zn);
	zcnic_pairs_napi_start(zn);
	return err;
}
