/* What a program in a pod does with a name: prints its addresses, or with -x the name of an address. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static int failed(int error) {
    if (error == EAI_NONAME) puts("no name");
    else if (error == -5) puts("no data"); /* EAI_NODATA, which POSIX does not have */
    else puts(gai_strerror(error));
    return 1;
}

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list, *one;
    char text[NI_MAXHOST];
    int reverse = argc == 3 && !strcmp(argv[1], "-x");
    if (argc == 3 && !strcmp(argv[1], "-6")) hints.ai_family = AF_INET6;
    if (reverse) hints.ai_flags = AI_NUMERICHOST;
    int error = getaddrinfo(argv[argc - 1], NULL, &hints, &list);
    if (error) return failed(error);
    for (one = list; one; one = one->ai_next) {
        int flags = reverse ? NI_NAMEREQD : NI_NUMERICHOST;
        error = getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, flags);
        if (error) return failed(error);
        puts(text);
    }
    return 0;
}
