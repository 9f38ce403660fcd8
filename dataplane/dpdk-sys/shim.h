/* What the bindings are generated from: DPDK's headers, constants that bindgen cannot see
 * through (macros with casts), and functions for what DPDK only has inline. */
#ifndef AOE_DPDK_SHIM_H
#define AOE_DPDK_SHIM_H

#include <stdint.h>
#include <rte_eal.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_eth_ring.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_memory.h>
#include <rte_mempool.h>
#include <rte_memzone.h>
#include <rte_ring.h>
#include <rte_version.h>
#include <rte_bus_vdev.h>

static const uint64_t AOE_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t AOE_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t AOE_MBUF_F_EXTERNAL = RTE_MBUF_F_EXTERNAL;
static const uint64_t AOE_MBUF_F_INDIRECT = RTE_MBUF_F_INDIRECT;
static const uint64_t AOE_BAD_IOVA = RTE_BAD_IOVA;

/* rte_errno is thread-local behind a macro. */
int aoe_errno(void);

struct rte_mbuf *aoe_pktmbuf_alloc(struct rte_mempool *pool);
void aoe_pktmbuf_free(struct rte_mbuf *mbuf);
/* With header = 1: the whole chain. Returns 0, or -1 with a reason. */
int aoe_mbuf_check(const struct rte_mbuf *mbuf, int is_header, const char **reason);

/* The same as the Rust versions, for comparing them. */
uint16_t aoe_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t aoe_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

uint64_t aoe_rdtsc(void);

#endif
