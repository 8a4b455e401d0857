// SPDX-License-Identifier: GPL-2.0-only
/*
 * The virtqueues: 2 per pair, the command pair last, and behind them the control queue of QEMU, which
 * is asked for one thing only: to enable all pairs. Everything else goes over the command pair.
 */
#include <linux/crash_dump.h>
#include <linux/iopoll.h>
#include <linux/pci.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>

#include "zcnic.h"

#define ZCNIC_CONTROL_TIMEOUT_US	(2 * USEC_PER_SEC)

static int zcnic_vqs_find(struct zcnic *zn, u16 pairs, struct virtqueue **vqs,
			  struct virtqueue_info *infos)
{
	struct pci_dev *pdev = to_pci_dev(zn->vdev->dev.parent);
	u16 command = zn->device_pairs - 1;
	u16 i;
	int err;

	for (i = 0; i < zn->device_pairs; i++) {
		struct virtqueue_info *rx = &infos[2 * i],
				      *tx = &infos[2 * i + 1];

		/*
		 * ctx keeps indirect tables away: a chain has few descriptors, and an atomic
		 * allocation per frame costs more than they save. It also makes the capacity
		 * of a ring a number of descriptors, which is what ethtool -G sets.
		 */
		*rx = (struct virtqueue_info){ .name = zn->vq_names[2 * i],
					       .ctx = true };
		*tx = (struct virtqueue_info){ .name = zn->vq_names[2 * i + 1],
					       .ctx = true };
		if (i < pairs) {
			rx->callback = zcnic_ring_callback;
			tx->callback = zcnic_ring_callback;
		} else if (i == command) {
			rx->callback = zcnic_event_callback;
			tx->callback = zcnic_command_callback;
			rx->ctx = false;
			tx->ctx = false;
		}
	}
	infos[2 * zn->device_pairs] =
		(struct virtqueue_info){ .name = "control" };

	err = virtio_find_vqs(zn->vdev, 2 * zn->device_pairs + 1, vqs, infos,
			      NULL);
	if (err)
		return err;

	/*
	 * virtio falls back to shared vectors without a word. Vector 0 is for configuration, then
	 * there is one for each ring with a callback, if the last of them exists.
	 */
	if (pci_irq_vector(pdev, 2 * (pairs + 1)) < 0) {
		zn->vdev->config->del_vqs(zn->vdev);
		return -ENOSPC;
	}
	return 0;
}

static int zcnic_vqs_max_pairs(struct zcnic *zn)
{
	int vectors = pci_msix_vec_count(to_pci_dev(zn->vdev->dev.parent));
	int pairs = min(zn->device_pairs - 1, ZCNIC_MAX_PAIRS - 1);

	if (is_kdump_kernel())
		pairs = 1;
	/* one for configuration, two for the command pair */
	return min(pairs, (vectors - 3) / 2);
}

/**
 * zcnic_vqs_init() - find the virtqueues, with a vector for each ring that is used
 * @zn: the device
 *
 * The first call decides how many pairs there are (pair_count), the ones after a device reset have to
 * get the same number again.
 *
 * Return: 0, or -ENOSPC if not even one pair gets vectors of its own, or what virtio says.
 */
int zcnic_vqs_init(struct zcnic *zn)
{
	struct virtqueue_info *infos;
	struct virtqueue **vqs;
	int wanted, pairs, err;
	u16 i;

	vqs = kvcalloc(2 * zn->device_pairs + 1, sizeof(*vqs), GFP_KERNEL);
	infos = kvcalloc(2 * zn->device_pairs + 1, sizeof(*infos), GFP_KERNEL);
	err = -ENOMEM;
	if (!vqs || !infos)
		goto out;

	wanted = zcnic_vqs_max_pairs(zn);
	err = -ENOSPC;
	for (pairs = zn->pair_count ?: wanted; pairs > 0; pairs /= 2) {
		err = zcnic_vqs_find(zn, pairs, vqs, infos);
		if (err != -ENOSPC || zn->pair_count)
			break;
	}
	if (err) {
		dev_err(&zn->vdev->dev,
			"no interrupt vectors for the rings (%d): a pair takes 2, commands and configuration 3\n",
			err);
		goto out;
	}
	if (!zn->pair_count) {
		zn->pair_count = pairs;
		if (pairs < zn->device_pairs - 1)
			dev_info(&zn->vdev->dev, "using %d of %d pairs: %s\n",
				 pairs, zn->device_pairs - 1,
				 is_kdump_kernel() ?
					 "kdump" :
					 "no more interrupt vectors");
	}

	for (i = 0; i < zn->pair_count; i++) {
		zn->pairs[i].rx.vq = vqs[2 * i];
		zn->pairs[i].tx.vq = vqs[2 * i + 1];
	}
	zn->event_vq = vqs[2 * zn->device_pairs - 2];
	zn->command_vq = vqs[2 * zn->device_pairs - 1];
	zn->control_vq = vqs[2 * zn->device_pairs];
	zn->rx_ring_size = virtqueue_get_vring_size(vqs[0]);
	zn->tx_ring_size = virtqueue_get_vring_size(vqs[1]);
	zn->dma_dev = virtqueue_dma_dev(vqs[0]);
	if (!zn->dma_dev) {
		zn->vdev->config->del_vqs(zn->vdev);
		err = -EOPNOTSUPP;
		goto out;
	}
	/* memory providers map their areas in one piece; no descriptor holds more than a page of them */
	dma_set_max_seg_size(zn->dma_dev, UINT_MAX);
out:
	kvfree(vqs);
	kvfree(infos);
	return err;
}

/**
 * zcnic_vqs_enable_pairs() - have QEMU enable all pairs
 * @zn: the device, DRIVER_OK
 *
 * QEMU keeps pairs above the number disabled, so the number is set once after each start of the device
 * and never lowered; how many pairs the interface uses is between us and the backend. QEMU answers
 * even if there is no backend, and soon: its control queue has no interrupt.
 *
 * Return: 0 or a negative errno; the device must be reset if it is -ETIMEDOUT.
 */
int zcnic_vqs_enable_pairs(struct zcnic *zn)
{
	struct {
		struct virtio_net_ctrl_hdr header;
		struct virtio_net_ctrl_mq mq;
		virtio_net_ctrl_ack ack;
	} *control;
	struct scatterlist header, mq, ack, *sgs[] = { &header, &mq, &ack };
	unsigned int length;
	void *done;
	int err;

	control = kzalloc_obj(*control);
	if (!control)
		return -ENOMEM;
	control->header.class = VIRTIO_NET_CTRL_MQ;
	control->header.cmd = VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
	control->mq.virtqueue_pairs =
		cpu_to_virtio16(zn->vdev, zn->device_pairs);
	control->ack = VIRTIO_NET_ERR;
	sg_init_one(&header, &control->header, sizeof(control->header));
	sg_init_one(&mq, &control->mq, sizeof(control->mq));
	sg_init_one(&ack, &control->ack, sizeof(control->ack));

	err = virtqueue_add_sgs(zn->control_vq, sgs, 2, 1, control, GFP_KERNEL);
	if (err) {
		kfree(control);
		return err;
	}
	virtqueue_kick(zn->control_vq);
	err = read_poll_timeout(virtqueue_get_buf, done, done, 50,
				ZCNIC_CONTROL_TIMEOUT_US, false, zn->control_vq,
				&length);
	if (err)
		return err;	/* the device still owns it: zcnic_vqs_del() frees it */
	if (control->ack != VIRTIO_NET_OK)
		err = -EIO;
	kfree(control);
	return err;
}

/**
 * zcnic_vqs_del() - give the virtqueues back, after a device reset
 * @zn: the device; its rings with frames were emptied by zcnic_rx_detach() and zcnic_tx_detach()
 *
 * What is in a ring is mapped for the device until it is taken out of it.
 */
void zcnic_vqs_del(struct zcnic *zn)
{
	void *control;

	while ((control = virtqueue_detach_unused_buf(zn->control_vq)))
		kfree(control);
	/* event buffers stay where they are, but are not mapped for the device any more */
	while (virtqueue_detach_unused_buf(zn->event_vq))
		;
	zcnic_command_clean(zn);
	zn->vdev->config->del_vqs(zn->vdev);
	zn->command_vq = NULL;
	zn->event_vq = NULL;
	zn->control_vq = NULL;
}
