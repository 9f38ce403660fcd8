#include "shim.h"
#include <rte_cycles.h>

int aoe_errno(void) { return rte_errno; }

struct rte_mbuf *aoe_pktmbuf_alloc(struct rte_mempool *pool) { return rte_pktmbuf_alloc(pool); }

void aoe_pktmbuf_free(struct rte_mbuf *mbuf) { rte_pktmbuf_free(mbuf); }

int aoe_mbuf_check(const struct rte_mbuf *mbuf, int is_header, const char **reason)
{
	return rte_mbuf_check(mbuf, is_header, reason);
}

uint16_t aoe_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t aoe_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

uint64_t aoe_rdtsc(void) { return rte_rdtsc(); }
