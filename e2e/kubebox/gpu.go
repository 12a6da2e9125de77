package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// devicePlugin announces GPUs that are not there, as NVIDIA's plugin announces those that are.
type devicePlugin struct {
	api.UnimplementedDevicePluginServer
	count int
}

func (p devicePlugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch sends the devices once and then keeps the stream open: when it ends, the kubelet counts them as gone.
func (p devicePlugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	devices := make([]*api.Device, p.count)
	for i := range devices {
		devices[i] = &api.Device{ID: fmt.Sprintf("GPU-%d", i), Health: api.Healthy}
	}
	if err := stream.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// Allocate tells the container which devices are its own, in the variable that NVIDIA's runtime reads.
func (p devicePlugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	answer := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		env := map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")}
		answer.ContainerResponses = append(answer.ContainerResponses, &api.ContainerAllocateResponse{Envs: env})
	}
	return answer, nil
}

func gpuDevicePlugin(args []string) int {
	flags := flag.NewFlagSet("gpu-device-plugin", flag.ExitOnError)
	count := flags.Int("count", 1, "number of GPUs to announce")
	resource := flags.String("resource", "nvidia.com/gpu", "name of the extended resource")
	socket := flags.String("socket", api.DevicePluginPath+"lab-gpu.sock", "where to listen; beside the kubelet's own socket")
	kubelet := flags.String("kubelet-socket", api.KubeletSocket, "where the kubelet takes registrations")
	_ = flags.Parse(args)

	// Until the kubelet has taken us: it may not listen yet, and at its start it removes every socket of this folder, ours too
	// if we were first. So each try listens afresh.
	for {
		served, err := offer(*socket, *kubelet, *resource, *count)
		if err == nil {
			fmt.Printf("%s: %d\n", *resource, *count)
			if err := <-served; err != nil {
				fmt.Fprintln(os.Stderr, "gpu-device-plugin:", err)
				return 1
			}
			return 0
		}
		fmt.Println("not registered yet:", err)
		time.Sleep(200 * time.Millisecond)
	}
}

// offer listens, serves and registers; what it returns ends when serving ends.
func offer(socket, kubelet, resource string, count int) (<-chan error, error) {
	if _, err := os.Stat(kubelet); err != nil {
		return nil, err
	}
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, devicePlugin{count: count})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if err := register(kubelet, filepath.Base(socket), resource); err != nil {
		server.Stop()
		return nil, err
	}
	return served, nil
}

func register(kubelet, endpoint, resource string) error {
	connection, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: endpoint, ResourceName: resource}
	_, err = api.NewRegistrationClient(connection).Register(ctx, request)
	return err
}
