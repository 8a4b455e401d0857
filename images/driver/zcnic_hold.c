// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receiving without recycling, for measuring what page pools save.
 *
 * While the debugfs file no_recycle is 1 the driver keeps a reference of its
 * own to each page that the stack gets, until enough more pages were received
 * that the stack is done with it. The page pool then finds that it is not the
 * page's only owner, releases it, and takes another one from the page
 * allocator. Frames of XDP are not affected.
 */
#include <linux/mm.h>

#include "zcnic.h"

/* Per queue: more pages than wait in sockets */
#define ZCNIC_HELD_PAGES	4096

/**
 * zcnic_hold() - keep a page from being recycled
 * @rx: the queue, in its NAPI, with pages held
 * @netmem: memory that the stack gets
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
 * zcnic_hold_stop() - release the pages of all queues
 * @zn: the device; no queue is polled
 */
void zcnic_hold_stop(struct zcnic *zn)
{
	u16 i;

	for (i = 0; i < zn->pair_count; i++) {
		zcnic_hold_free(zn->pairs[i].rx.held);
		zn->pairs[i].rx.held = NULL;
	}
}

/**
 * zcnic_hold_start() - hold pages of all queues from now on
 * @zn: the device; no queue is polled, none has pages held
 *
 * Return: 0, or -ENOMEM with nothing changed.
 */
int zcnic_hold_start(struct zcnic *zn)
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
