// SPDX-License-Identifier: GPL-2.0-only
#include <linux/virtio.h>

#include "zcnic.h"

/* Post the event buffers that are not in the ring. */
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

/* Events are hints. STATUS, which is asked anyway, says what the link does and whether the session is over. */
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
