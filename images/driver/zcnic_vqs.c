// SPDX-License-Identifier: GPL-2.0-only
/*
 * The virtqueues: 2 per pair, the command pair last, and behind them the
 * control queue of QEMU, which is used once: to enable all pairs. Everything
 * else goes over the command pair.
 */
#include <linux/crash_dump.h>
#include <linux/interrupt.h>
#include <linux/iopoll.h>
#include <linux/irq.h>
#include <linux/pci.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>

#include "zcnic_command.h"
#include "zcnic_queue.h"
#include "zcnic_session.h"

#define ZCNIC_CONTROL_TIMEOUT_US	(2 * USEC_PER_SEC)

/*
 * Describe the rings, of which those of @pairs data pairs and of the command
 * pair get callbacks and so vectors.
 *
 * With ctx a data ring has no indirect tables: a chain has few descriptors, and
 * an atomic allocation per frame costs more than they save. It also makes the
 * capacity of a ring a number of descriptors, which is what ethtool -G sets.
 */
static void zcnic_vqs_describe(const struct zcnic *zn, u16 pairs,
			       struct virtqueue_info *infos)
{
	u16 command = zn->device_pairs - 1;
	u16 i;

	memset(infos, 0, (2 * zn->device_pairs + 1) * sizeof(*infos));
	for (i = 0; i < zn->device_pairs; i++) {
		struct virtqueue_info *tx = &infos[2 * i + 1];
		struct virtqueue_info *rx = &infos[2 * i];

		rx->name = zn->vq_names[2 * i];
		tx->name = zn->vq_names[2 * i + 1];
		rx->ctx = i != command;
		tx->ctx = i != command;
		if (i == command) {
			rx->callback = zcnic_event_callback;
			tx->callback = zcnic_command_callback;
		} else if (i < pairs) {
			rx->callback = zcnic_ring_callback;
			tx->callback = zcnic_ring_callback;
		}
	}
	infos[2 * zn->device_pairs].name = "control";
}

static int zcnic_vqs_find(struct zcnic *zn, u16 pairs, struct virtqueue **vqs,
			  struct virtqueue_info *infos)
{
	struct pci_dev *pdev = to_pci_dev(zn->vdev->dev.parent);
	int err;

	zcnic_vqs_describe(zn, pairs, infos);
	err = virtio_find_vqs(zn->vdev, 2 * zn->device_pairs + 1, vqs, infos,
			      NULL);
	if (err)
		return err;

	/*
	 * virtio falls back to shared vectors silently. Vector 0 is for
	 * configuration, then there is one for each ring with a callback, if
	 * the last of them exists.
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

/*
 * Find as many pairs as get vectors, and as many as the first time after that.
 *
 * Return: the pairs, or a negative errno.
 */
static int zcnic_vqs_find_most(struct zcnic *zn, struct virtqueue **vqs,
			       struct virtqueue_info *infos)
{
	int pairs, err = -ENOSPC;

	if (zn->pair_count) {
		err = zcnic_vqs_find(zn, zn->pair_count, vqs, infos);
		return err ? err : zn->pair_count;
	}
	for (pairs = zcnic_vqs_max_pairs(zn); pairs > 0; pairs /= 2) {
		err = zcnic_vqs_find(zn, pairs, vqs, infos);
		if (!err)
			return pairs;
		if (err != -ENOSPC)
			break;
	}
	return err;
}

/* The user's choice outlives the vectors. */
static void zcnic_vqs_save_affinity(struct zcnic *zn)
{
	struct pci_dev *pdev = to_pci_dev(zn->vdev->dev.parent);
	u16 i;

	for (i = 0; i < ZCNIC_VECTORS(zn->pair_count); i++)
		cpumask_copy(&zn->affinity[i],
			     irq_get_affinity_mask(pci_irq_vector(pdev, i)));
}

static void zcnic_vqs_restore_affinity(struct zcnic *zn)
{
	struct pci_dev *pdev = to_pci_dev(zn->vdev->dev.parent);
	u16 i;

	for (i = 0; i < ZCNIC_VECTORS(zn->pair_count); i++) {
		int irq = pci_irq_vector(pdev, i);

		if (!cpumask_empty(&zn->affinity[i]) &&
		    !cpumask_equal(&zn->affinity[i],
				   irq_get_affinity_mask(irq)))
			irq_set_affinity(irq, &zn->affinity[i]);
	}
}

/**
 * zcnic_vqs_init() - find the virtqueues, with a vector for each ring in use
 * @zn: the device
 *
 * The first call decides how many pairs there are (pair_count). Calls after a
 * device reset must get the same number.
 *
 * Return: 0; -ENOSPC if not even one pair gets vectors of its own; -ENOMEM;
 * -EOPNOTSUPP if the rings have no DMA device; or virtio's errno.
 */
int zcnic_vqs_init(struct zcnic *zn)
{
	struct virtqueue_info *infos;
	struct virtqueue **vqs;
	int pairs, err;
	u16 i;

	vqs = kvcalloc(2 * zn->device_pairs + 1, sizeof(*vqs), GFP_KERNEL);
	infos = kvcalloc(2 * zn->device_pairs + 1, sizeof(*infos), GFP_KERNEL);
	err = -ENOMEM;
	if (!vqs || !infos)
		goto out;

	pairs = zcnic_vqs_find_most(zn, vqs, infos);
	if (pairs < 0) {
		err = pairs;
		dev_err(&zn->vdev->dev,
			"no interrupt vectors for the rings (%d): a pair takes 2, commands and configuration 3\n",
			err);
		goto out;
	}
	if (!zn->pair_count && pairs < zn->device_pairs - 1)
		dev_info(&zn->vdev->dev, "using %d of %d pairs: %s\n", pairs,
			 zn->device_pairs - 1,
			 is_kdump_kernel() ? "kdump" :
					     "no more interrupt vectors");
	zn->pair_count = pairs;

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
	zcnic_vqs_restore_affinity(zn);
	/* memory providers map areas whole; no descriptor exceeds a page */
	dma_set_max_seg_size(zn->dma_dev, UINT_MAX);
	err = 0;
out:
	kvfree(vqs);
	kvfree(infos);
	return err;
}

/**
 * zcnic_vqs_enable_pairs() - have QEMU enable all pairs
 * @zn: the device, DRIVER_OK
 *
 * QEMU keeps pairs above the number disabled, so all are enabled once after
 * each start of the device. TXQ_START and RXQ_START have the backend use some
 * of them. QEMU answers soon and also without a backend, so the control queue
 * is polled and has no interrupt.
 *
 * Return: 0 or a negative errno; after -ETIMEDOUT the device must be reset.
 */
int zcnic_vqs_enable_pairs(struct zcnic *zn)
{
	struct {
		struct virtio_net_ctrl_hdr header;
		struct virtio_net_ctrl_mq mq;
		virtio_net_ctrl_ack ack;
	} *control;
	struct scatterlist header, mq, ack;
	struct scatterlist *sgs[] = { &header, &mq, &ack };
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
	/* the device still owns it: zcnic_vqs_del() frees it */
	if (err)
		return err;
	if (control->ack != VIRTIO_NET_OK)
		err = -EIO;
	kfree(control);
	return err;
}

/**
 * zcnic_vqs_del() - delete the virtqueues, after a device reset
 * @zn: the device; zcnic_rx_detach() and zcnic_tx_detach() emptied data rings
 *
 * A buffer that virtio mapped stays mapped for the device until it is detached.
 */
void zcnic_vqs_del(struct zcnic *zn)
{
	void *control;

	while ((control = virtqueue_detach_unused_buf(zn->control_vq)))
		kfree(control);
	/* this unmaps the event buffers, which are zn->events */
	while (virtqueue_detach_unused_buf(zn->event_vq))
		;
	zcnic_command_clean(zn);
	zcnic_vqs_save_affinity(zn);
	zn->vdev->config->del_vqs(zn->vdev);
	zn->command_vq = NULL;
	zn->event_vq = NULL;
	zn->control_vq = NULL;
}
