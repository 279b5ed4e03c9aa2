// A peer made of js-libp2p, for the tests of interoperability (tests/tests/interop.rs). Prints one line of JSON.
//
//   node peer.mjs dial SECURITY ADDRESS      connects, identifies, pings three times, ends
//   node peer.mjs reserve SECURITY RELAY     reserves at a relay and answers pings, until it is killed
//   node peer.mjs serve SECURITY             listens on TCP and QUIC of 127.0.0.1 and relays, until it is killed
//
// SECURITY is what is proposed first on TCP, tls or noise. Noise is always offered: over a relay js-libp2p's TLS does not
// answer. QUIC brings its own.
import { noise } from '@chainsafe/libp2p-noise'
import { quic } from '@chainsafe/libp2p-quic'
import { yamux } from '@chainsafe/libp2p-yamux'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

// Node.js has this since version 22; what it imports asks for it when it runs.
Promise.withResolvers ??= function () {
  const resolvers = {}
  resolvers.promise = new Promise((resolve, reject) => Object.assign(resolvers, { resolve, reject }))
  return resolvers
}

const PATIENCE_MS = 20_000
const [command, security, address] = process.argv.slice(2)

const peer = (listen, services = {}) => createLibp2p({
  addresses: { listen },
  transports: [tcp(), quic(), circuitRelayTransport()],
  connectionEncrypters: security === 'tls' ? [tls(), noise()] : [noise()],
  streamMuxers: [yamux()],
  // Every address of these tests is of this machine, which js-libp2p does not dial by itself.
  connectionGater: { denyDialMultiaddr: () => false },
  services: { identify: identify(), ping: ping(), ...services }
})

const say = (line) => console.log(JSON.stringify(line))

// What the other end says of itself, and how long pings take in milliseconds.
async function dial () {
  setTimeout(() => process.exit(1), PATIENCE_MS)
  const node = await peer([])
  const signal = AbortSignal.timeout(PATIENCE_MS)
  // js-libp2p identifies by itself as soon as it is connected, to a relay on the way too.
  const target = address.split('/').at(-1)
  const identified = new Promise((resolve) => node.addEventListener('peer:identify', ({ detail }) => {
    if (detail.peerId.toString() === target) resolve(detail)
  }))
  const connection = await node.dial(multiaddr(address), { signal })
  // Over a relay it stumbles on how the peer sees it, "/p2p/…", and says nothing.
  const circuit = address.includes('/p2p-circuit/')
  const { agentVersion, protocolVersion, protocols } = circuit ? {} : await identified
  const pings = []
  for (let i = 0; i < 3; i++) pings.push(await node.services.ping.ping(connection.remotePeer, { signal }))
  say({
    peer: connection.remotePeer.toString(),
    security: connection.encryption ?? null,
    multiplexer: connection.multiplexer ?? null,
    agentVersion,
    protocolVersion,
    protocols,
    pings
  })
  process.exit(0)
}

async function reserve () {
  try {
    serving(await peer([`${address}/p2p-circuit`]))
  } catch (error) {
    say({ refused: error.errors?.map(String) ?? [String(error)] })
    process.exit(0)
  }
}

// Reservations of any length and size: a test ends when it wants.
const relay = () => circuitRelayServer({ reservations: { applyDefaultLimit: false } })

async function serve () {
  serving(await peer(['/ip4/127.0.0.1/tcp/0', '/ip4/127.0.0.1/udp/0/quic-v1'], { relay: relay() }))
}

const serving = (node) => say({ peer: node.peerId.toString(), listening: node.getMultiaddrs().map(String) })

await { dial, reserve, serve }[command]()
