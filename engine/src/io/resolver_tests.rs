//! The resolver against name servers on the loopback: real sockets, a thread each.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket as StdUdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::*;
use crate::dns::testing::Reply;

/// What a server does with one query.
enum Act {
    Answer(Vec<u8>),
    /// Several packets, one after the other (over TCP only the first).
    Answers(Vec<Vec<u8>>),
    /// Nothing at all; over TCP: half an answer, and then nothing.
    Silence,
}

/// A name server: UDP and TCP on the same port, until dropped.
struct Server {
    address: SocketAddr,
    udp_queries: Arc<AtomicUsize>,
    tcp_queries: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

const POLL: Duration = Duration::from_millis(20);

impl Server {
    fn start(serve: impl Fn(Via, &[u8]) -> Act + Send + Sync + 'static) -> Self {
        let serve = Arc::new(serve);
        let (udp, tcp) = both();
        let address = udp.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (udp_queries, tcp_queries) = (Arc::default(), Arc::default());
        let threads = vec![
            std::thread::spawn({
                let (serve, stop, count) = (serve.clone(), stop.clone(), Arc::clone(&udp_queries));
                move || udp_loop(&udp, &stop, &count, &*serve)
            }),
            std::thread::spawn({
                let (stop, count) = (stop.clone(), Arc::clone(&tcp_queries));
                move || tcp_loop(&tcp, &stop, &count, &*serve)
            }),
        ];
        Self {
            address,
            udp_queries,
            tcp_queries,
            stop,
            threads,
        }
    }

    fn udp_queries(&self) -> usize {
        self.udp_queries.load(Ordering::SeqCst)
    }

    fn tcp_queries(&self) -> usize {
        self.tcp_queries.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A port that is free for both.
fn both() -> (StdUdpSocket, TcpListener) {
    for _ in 0..100 {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(udp) = StdUdpSocket::bind(tcp.local_addr().unwrap()) {
            tcp.set_nonblocking(true).unwrap();
            udp.set_read_timeout(Some(POLL)).unwrap();
            return (udp, tcp);
        }
    }
    panic!("no port is free for UDP and TCP");
}

fn udp_loop(
    socket: &StdUdpSocket,
    stop: &AtomicBool,
    count: &AtomicUsize,
    serve: &(dyn Fn(Via, &[u8]) -> Act + Sync),
) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::SeqCst) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        count.fetch_add(1, Ordering::SeqCst);
        let answers = match serve(Via::Udp, &buffer[..length]) {
            Act::Answer(answer) => vec![answer],
            Act::Answers(answers) => answers,
            Act::Silence => vec![],
        };
        for answer in answers {
            let _ = socket.send_to(&answer, peer);
        }
    }
}

fn tcp_loop(
    listener: &TcpListener,
    stop: &AtomicBool,
    count: &AtomicUsize,
    serve: &(dyn Fn(Via, &[u8]) -> Act + Sync),
) {
    let mut held = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            continue;
        }
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() {
            continue;
        }
        count.fetch_add(1, Ordering::SeqCst);
        let framed = match serve(Via::Tcp, &query) {
            Act::Answer(answer) => [&(answer.len() as u16).to_be_bytes()[..], &answer].concat(),
            Act::Answers(mut answers) => answers.remove(0),
            Act::Silence => vec![0],
        };
        let _ = stream.write_all(&framed);
        held.push(stream);
    }
}

/// A zone in which each domain `d` has `10 mx.d`, and each host 192.0.2.1.
fn zone(query: &[u8]) -> Vec<u8> {
    let mut name = String::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(&query[at + 1..end]).unwrap());
        at = end;
    }
    let mut reply = Reply::to(query);
    match query[at + 2] {
        15 => reply.mx(&name, 300, 10, &format!("mx.{name}")),
        1 => reply.a(&name, 300, Ipv4Addr::new(192, 0, 2, 1)),
        _ => reply.soa("test", 300, 300),
    }
    reply.bytes()
}

fn is_mx(query: &[u8]) -> bool {
    query.windows(5).any(|window| window == [0, 0, 15, 0, 1])
}

fn resolver(servers: Vec<SocketAddr>, try_timeout: Duration) -> Resolver {
    let lookup = Config {
        try_timeout,
        ..Config::default()
    };
    let config = ResolverConfig {
        lookup,
        ..ResolverConfig::default()
    };
    Resolver::new(servers, config)
}

/// Long enough for a loaded machine; only what must time out gets less.
const PATIENCE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(150);

fn on_executor<T>(test: impl Future<Output = T>) -> T {
    glommio::LocalExecutor::default().run(test)
}

fn first_address(answer: &Answer) -> String {
    let hosts = answer.result.as_ref().unwrap();
    let host = &hosts.hosts[0];
    format!("{} {} {}", hosts.site, host.name, host.addresses[0])
}

#[test]
fn a_domain_is_looked_up_once_and_then_cached() {
    let server = Server::start(|_, query| Act::Answer(zone(query)));
    on_executor(async {
        let resolver = resolver(vec![server.address], PATIENCE);
        assert!(resolver.cached("d.test").is_none());
        for spelling in ["d.test", "D.TEST.", "d.test"] {
            let answer = resolver.resolve(spelling).await;
            assert_eq!(first_address(&answer), "mx.d.test mx.d.test 192.0.2.1");
        }
        assert_eq!(server.udp_queries(), 3, "MX, A, AAAA");
        let counts = resolver.counts();
        assert_eq!((counts.lookups, counts.cache_hits), (1, 2));
        assert!(resolver.cached("d.test").is_some());
        resolver.forget(Some("d.test"));
        resolver.resolve("d.test").await;
        assert_eq!(server.udp_queries(), 6);
        // No query for these.
        let literal = resolver.resolve("[192.0.2.9]").await;
        assert_eq!(first_address(&literal), "192.0.2.9 192.0.2.9 192.0.2.9");
        let nonsense = resolver.resolve("a..b").await;
        assert_eq!(
            nonsense.result.as_ref().unwrap_err().kind,
            FailureKind::BadName
        );
        assert_eq!(server.udp_queries(), 6);
    });
}

#[test]
fn a_routes_target_has_its_own_cache_entry() {
    let server = Server::start(|_, query| Act::Answer(zone(query)));
    on_executor(async {
        let resolver = resolver(vec![server.address], PATIENCE);
        let target = Target::parse("d.test:2525", 25).unwrap();
        let answer = resolver.resolve_target(&target).await;
        assert_eq!(first_address(&answer), "d.test d.test 192.0.2.1");
        assert_eq!(server.udp_queries(), 2);
        let answer = resolver.resolve("d.test").await;
        assert_eq!(first_address(&answer), "mx.d.test mx.d.test 192.0.2.1");
        resolver.resolve_target(&target).await;
        assert_eq!(server.udp_queries(), 5);
        let address = Target::parse("127.0.0.1:2525", 25).unwrap();
        let answer = resolver.resolve_target(&address).await;
        assert_eq!(first_address(&answer), "127.0.0.1 127.0.0.1 127.0.0.1");
    });
}

#[test]
fn a_truncated_answer_comes_over_tcp() {
    let server = Server::start(|via, query| {
        Act::Answer(match via {
            Via::Udp if is_mx(query) => Reply::to(query).truncated().bytes(),
            _ => zone(query),
        })
    });
    on_executor(async {
        let resolver = resolver(vec![server.address], PATIENCE);
        let answer = resolver.resolve("d.test").await;
        assert_eq!(first_address(&answer), "mx.d.test mx.d.test 192.0.2.1");
        assert_eq!((server.udp_queries(), server.tcp_queries()), (3, 1));
    });
}

#[test]
fn tcp_that_stops_half_way_is_temporary() {
    let server = Server::start(|via, query| match via {
        Via::Udp => Act::Answer(Reply::to(query).truncated().bytes()),
        Via::Tcp => Act::Silence,
    });
    on_executor(async {
        let resolver = resolver(vec![server.address], SHORT);
        let answer = resolver.resolve("d.test").await;
        let failure = answer.result.as_ref().unwrap_err();
        assert_eq!(failure.kind, FailureKind::Temporary, "{failure}");
        assert_eq!(resolver.counts().temporary, 1);
    });
}

#[test]
fn a_dead_server_and_a_closed_port_are_passed_over() {
    let dead = Server::start(|_, _| Act::Silence);
    let closed = both().0.local_addr().unwrap();
    let good = Server::start(|_, query| Act::Answer(zone(query)));
    on_executor(async {
        // The dead server costs the test one of these; the good one must answer within it.
        let long = Duration::from_secs(1);
        let resolver = resolver(vec![dead.address, closed, good.address], long);
        let answer = resolver.resolve("d.test").await;
        assert_eq!(first_address(&answer), "mx.d.test mx.d.test 192.0.2.1");
        assert_eq!(dead.udp_queries(), 1);
        resolver.resolve("e.test").await;
        assert_eq!(
            dead.udp_queries(),
            1,
            "the one that answers is asked first from then on"
        );
    });
}

#[test]
fn all_servers_silent_is_temporary() {
    let dead = Server::start(|_, _| Act::Silence);
    on_executor(async {
        let resolver = resolver(vec![dead.address], SHORT);
        let answer = resolver.resolve("d.test").await;
        let failure = answer.result.as_ref().unwrap_err();
        assert_eq!(failure.kind, FailureKind::Temporary);
        assert_eq!(dead.udp_queries(), 2);
        // Remembered for a while: the next caller does not wait.
        resolver.resolve("d.test").await;
        assert_eq!(dead.udp_queries(), 2);
    });
}

#[test]
fn packets_that_are_not_the_answer_are_dropped_until_the_answer_comes() {
    let server = Server::start(|_, query| {
        let good = zone(query);
        let mut wrong_id = good.clone();
        wrong_id[0] ^= 0x55;
        let garbage = vec![0xc0; 40];
        Act::Answers(vec![wrong_id, garbage, vec![], good])
    });
    on_executor(async {
        let resolver = resolver(vec![server.address], PATIENCE);
        let answer = resolver.resolve("d.test").await;
        assert_eq!(first_address(&answer), "mx.d.test mx.d.test 192.0.2.1");
        assert_eq!(server.udp_queries(), 3);
    });
}

#[test]
fn a_flood_of_wrong_ids_ends_the_try() {
    let server = Server::start(|_, query| {
        let mut wrong_id = zone(query);
        wrong_id[0] ^= 0x55;
        Act::Answers(vec![wrong_id; 40])
    });
    on_executor(async {
        let resolver = resolver(vec![server.address], PATIENCE);
        let answer = resolver.resolve("d.test").await;
        let failure = answer.result.as_ref().unwrap_err();
        assert!(failure.text.contains("not the answer"), "{failure}");
    });
}

#[test]
fn callers_for_one_domain_share_a_lookup_and_many_domains_go_side_by_side() {
    let server = Server::start(|_, query| Act::Answer(zone(query)));
    on_executor(async {
        let resolver = resolver(vec![server.address], PATIENCE);
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let resolver = resolver.clone();
                glommio::spawn_local(async move {
                    let domain = format!("d{}.test", n % 40);
                    let answer = resolver.resolve(&domain).await;
                    assert_eq!(answer.result.as_ref().unwrap().hosts.len(), 1);
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(server.udp_queries(), 120);
        let counts = resolver.counts();
        assert_eq!(
            (counts.lookups, counts.joined + counts.cache_hits),
            (40, 160)
        );
    });
}

/// A server that answers nothing before its gate is opened.
fn gated() -> (Server, Arc<AtomicBool>) {
    let gate = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&gate);
    let server = Server::start(move |_, query| {
        for _ in 0..1000 {
            if opened.load(Ordering::SeqCst) {
                return Act::Answer(zone(query));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Act::Silence
    });
    (server, gate)
}

#[test]
fn a_caller_that_goes_away_leaves_the_lookup_to_the_others() {
    let (server, gate) = gated();
    on_executor(async {
        let resolver = resolver(vec![server.address], PATIENCE);
        {
            let first = resolver.resolve("d.test");
            futures_lite::pin!(first);
            assert!(futures_lite::future::poll_once(first).await.is_none());
        }
        let second = resolver.resolve("d.test");
        futures_lite::pin!(second);
        assert!(futures_lite::future::poll_once(&mut second).await.is_none());
        assert_eq!(resolver.counts().joined, 1);
        gate.store(true, Ordering::SeqCst);
        let answer = second.await;
        assert_eq!(first_address(&answer), "mx.d.test mx.d.test 192.0.2.1");
        assert_eq!(resolver.counts().lookups, 1);
    });
}

#[test]
fn lookups_beyond_the_limit_wait_for_their_turn() {
    let server = Server::start(|_, query| Act::Answer(zone(query)));
    on_executor(async {
        let config = ResolverConfig {
            parallel_max: 1,
            ..ResolverConfig::default()
        };
        let resolver = Resolver::new(vec![server.address], config);
        let second = resolver.clone();
        let task = glommio::spawn_local(async move { second.resolve("e.test").await });
        resolver.resolve("d.test").await;
        assert!(task.await.result.is_ok());
    });
}

#[test]
fn a_resolver_that_denies_every_domain_is_not_believed() {
    let server = Server::start(|_, query| Act::Answer(Reply::to(query).code(3).bytes()));
    on_executor(async {
        let resolver = resolver(vec![server.address], PATIENCE);
        let mut kinds = HashMap::new();
        for n in 0..100 {
            let answer = resolver.resolve(&format!("d{n}.test")).await;
            let kind = answer.result.as_ref().unwrap_err().kind;
            *kinds.entry(kind).or_insert(0) += 1;
        }
        assert!(kinds[&FailureKind::Temporary] >= 50, "{kinds:?}");
        assert_eq!(kinds.len(), 2);
    });
}

#[test]
fn resolv_conf() {
    for (text, servers) in [
        ("", "127.0.0.1:53"),
        (
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\n",
            "192.0.2.1:53 [2001:db8::1]:53",
        ),
        (
            "# nameserver 192.0.2.9\n; x\nsearch test\nnameserver\nnameserver x\n  nameserver\t192.0.2.1 # y\r\n",
            "192.0.2.1:53",
        ),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1", "192.0.2.1:53"),
        (
            "nameserver fe80::1%2\nnameserver fe80::1%eth0",
            "[fe80::1%2]:53",
        ),
    ] {
        let shown: Vec<_> = servers_from_resolv_conf(text)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown.join(" "), servers, "{text:?}");
    }
    let many: String = (0..20)
        .map(|n| format!("nameserver 192.0.2.{n}\n"))
        .collect();
    assert_eq!(servers_from_resolv_conf(&many).len(), 8);
}
