// SPDX-License-Identifier: GPL-2.0-only
/*
 * The command pair's receive ring: events.
 *
 * Events are hints. Each one runs the service work, which asks for STATUS
 * anyway: that has the link's state and shows whether the session is over.
 */
#include <linux/virtio.h>

#include "zcnic_command.h"

/**
 * zcnic_events_post() - post the event buffers that are not in the ring
 * @zn: the device, present; called by the service work or in probe
 */
void zcnic_events_post(struct zcnic *zn)
{
	struct scatterlist sg;
	bool added = false;
	int i;

	for (i = 0; i < ZCNIC_EVENTS; i++) {
		if (zn->events_posted[i])
			continue;
		sg_init_one(&sg, &zn->events[i], sizeof(zn->events[i]));
		if (virtqueue_add_inbuf(zn->event_vq, &sg, 1, &zn->events[i],
					GFP_KERNEL))
			break;
		zn->events_posted[i] = true;
		added = true;
	}
	if (added)
		virtqueue_kick(zn->event_vq);
}

/**
 * zcnic_events_clean() - take back used event buffers
 * @zn: the device, present; called by the service work or in probe
 */
void zcnic_events_clean(struct zcnic *zn)
{
	struct zcnic_event *event;
	unsigned int length;

	while ((event = virtqueue_get_buf(zn->event_vq, &length)))
		zn->events_posted[event - zn->events] = false;
}

void zcnic_event_callback(struct virtqueue *vq)
{
	zcnic_service_schedule(vq->vdev->priv);
}
